"""A finished run or an exported encoder -> a repository on the Hub."""

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi, ModelInfo, SpaceInfo, errors, get_token
from huggingface_hub.errors import HfHubHTTPError
from huggingface_hub.utils import get_session, validate_repo_id
from transformers.utils import logging

from ..system.damaged_files import first_damage
from ..system.error_text import reason_of
from ..system.run_folder import RunFolder
from .model_card import has_weights, is_in_training
from .public_files import is_of_this_package, is_run, pictures_of_local_images, public_files

logger = logging.get_logger(__name__)

_MAIN = "main"  # the Hub's default branch
# Seconds before each retry. By then the client has retried six times itself, except when it creates or commits.
_WAITS = (1, 2, 4, 8, 16)
_LONGEST_WAIT = 300  # seconds that a server may demand
_LONGEST_SILENCE = 300  # seconds without data; the client has no limit
_PASSING_STATUS = (408, 429, 500, 502, 503, 504)
# `HTTPError` of httpx or httpx2, whichever the installed client uses: connections refused, cut and timed out.
ConnectionTrouble: type[Exception] = HfHubHTTPError.__bases__[0]
_PASSING_ERRORS: tuple[type[Exception], ...] = (ConnectionTrouble, OSError, RuntimeError, json.JSONDecodeError)

Result = TypeVar("Result")


def push_run(
    run: str | Path,
    repo_id: str,
    private: bool | None = None,
    revision: str | None = None,
    token: str | None = None,
    with_pictures: bool = False,
) -> str:
    """
    Publish a run: the encoder at the root of the repository, so that `AutoModel` and pipelines load it by its id;
    `pretraining/` to continue from; pictures, recipe, versions, results and metrics. Returns the repository's address.

    Paths of this machine and tokens are removed from texts; optimizer state and checkpoints are never sent. Files
    that the repository already has are not sent again, so after a failure the same call continues.

    Args:
        run (`str` or `Path`): A finished run's folder, or an encoder folder that `export_encoder` wrote.
        repo_id (`str`): Repository, `user/name`; created if missing.
        private (`bool`, *optional*): Whether a new repository is private. If missing, the account's default.
        revision (`str`, *optional*, defaults to `"main"`): Branch; created if missing.
        token (`str`, *optional*): Access token. If missing, that of `HF_TOKEN` or `hf auth login`.
        with_pictures (`bool`, *optional*, defaults to `False`): Whether pictures that show images of this machine are
            published too. Pictures of images that are on the Hub always are.

    Raises:
        ValueError: If there is no finished run, or the id, the token or its permissions are not sufficient. Nothing
            was sent then.
        OSError: If the Hub cannot be reached, or the connection keeps failing.
    """
    folder = _finished(Path(run))
    target = Target(repo_id, private, revision, token)
    left_out = [] if with_pictures or not is_run(folder) else pictures_of_local_images(folder)
    if left_out:
        logger.warning(
            f"{' and '.join(left_out)} would show images of this machine: not pushed, unless by `lejepa push {run} "
            f"{repo_id} --with-pictures`."
        )
    files = public_files(folder, repo_id, None if target.branch == _MAIN else target.branch, left_out)
    target.prepare()
    target.commit(files, is_of_this_package, "LeJEPA encoder")
    return target.url


class Target:
    """A branch of a repository, a model or a Gradio Space, to write to; arguments and errors as of [`push_run`]."""

    def __init__(
        self, repo_id: str, private: bool | None, revision: str | None, token: str | None, is_space: bool = False
    ) -> None:
        try:
            validate_repo_id(repo_id)
        except errors.HFValidationError as error:
            reason = reason_of(error).rstrip(" .")
            raise ValueError(f"`repo_id` {repo_id!r} is not the name of a repository: {reason}") from None
        if repo_id.count("/") != 1:
            raise ValueError(f"`repo_id` {repo_id!r} must be of the form 'user/name', the user being your account.")
        if not (token or get_token()):
            raise ValueError(
                f"`token` is missing, and `repo_id` {repo_id!r} cannot be written without one: log in with `hf auth "
                "login`, or set HF_TOKEN."
            )
        self.repo_id, self.private, self.branch = repo_id, private, revision or _MAIN
        self._api = HfApi(token=token)
        self._repository: dict[str, Any] = {"repo_id": repo_id, "repo_type": "space" if is_space else "model"}
        self._known: list[str] = []
        self.url = f"{self._api.endpoint}/{'spaces/' if is_space else ''}{repo_id}"
        if self.branch != _MAIN:
            self.url += f"/tree/{self.branch}"

    def prepare(self) -> None:
        """Create repository and branch where they are missing, and check that they can be written."""
        sdk = "gradio" if self._repository["repo_type"] == "space" else None
        self._try(
            lambda: self._api.create_repo(private=self.private, exist_ok=True, space_sdk=sdk, **self._repository)
        )
        info = self._try(lambda: self._api.repo_info(**self._repository))
        if self.private and not info.private:
            raise ValueError(
                f"`private`: {self.repo_id!r} exists and is public. Make it private in its settings, or "
                "choose another `repo_id`."
            )
        if self.branch != _MAIN:
            self._try(lambda: self._api.create_branch(branch=self.branch, exist_ok=True, **self._repository))
            info = self._try(lambda: self._api.repo_info(revision=self.branch, **self._repository))
        # Sends nothing and fails without write access; creating a repository that exists does not.
        probe = [CommitOperationAdd("config.json", b"{}")]
        self._try(lambda: self._api.preupload_lfs_files(additions=probe, revision=self.branch, **self._repository))
        assert isinstance(info, ModelInfo | SpaceInfo), "the repository is one of these"
        self._known = [sibling.rfilename for sibling in info.siblings or []]

    def commit(self, files: dict[str, Path | bytes], is_ours: Callable[[str], bool], message: str) -> None:
        """
        Send `files`, by name in the repository, in one commit. Its message is used on the main branch, the branch's
        name on others. Other files there are deleted if an earlier push may have written them (`is_ours`).
        """
        stale = [name for name in self._known if name not in files and is_ours(name)]
        size = sum(len(file) if isinstance(file, bytes) else file.stat().st_size for file in files.values())
        logger.info(f"{len(files)} files, {size / 1e6:,.1f} MB, to {self.url}; those it already has are not sent.")

        def send() -> None:
            # New operations in each try: they remember what the server had.
            added = [CommitOperationAdd(name, file) for name, file in files.items()]
            deleted = [CommitOperationDelete(name, is_folder=False) for name in stale]
            title = message if self.branch == _MAIN else self.branch
            self._api.create_commit(
                operations=[*added, *deleted], commit_message=title, revision=self.branch, **self._repository
            )

        self._try(send)

    def _try(self, call: Callable[[], Result], failed: int = 0) -> Result:
        client = get_session()
        before, client.timeout = client.timeout, _LONGEST_SILENCE
        try:
            return call()
        except errors.OfflineModeIsEnabled as error:
            offline = f"`repo_id` {self.repo_id!r} cannot be written in offline mode: unset HF_HUB_OFFLINE."
            raise ValueError(offline) from error
        except _PASSING_ERRORS as error:
            cause = _failed_transfer(error)
            self._refuse(cause)
            reason = reason_of(cause).rstrip(" .")
            if failed == len(_WAITS):
                raise OSError(
                    f"`repo_id` {self.repo_id!r}: {self._api.endpoint} did not accept it ({reason}), "
                    f"after {failed} retries. What arrived is kept: the same command continues from there."
                ) from error
            wait = max(_WAITS[failed], _asked_to_wait(cause))
            logger.warning(f"{reason}: trying again in {wait} s.")
        finally:
            client.timeout = before
        time.sleep(wait)
        return self._try(call, failed + 1)

    def _refuse(self, error: Exception) -> None:
        """Raise what no retry changes, in one line with the way out."""
        status = error.response.status_code if isinstance(error, HfHubHTTPError) else None
        owner, where = self.repo_id.split("/")[0], self._api.endpoint
        message, other = None, "choose an id under your own name."
        if isinstance(error, errors.GatedRepoError):
            message = f"it is gated and this account has no access: request it at {self.url}, or {other}"
        elif isinstance(error, errors.RevisionNotFoundError):
            message = f"it has no branch {self.branch!r} to write to: choose another `revision`."
        elif status == 403:
            message = f"this `token` has no right to write there: use one with write access to {owner!r}, or {other}"
        elif status == 401:
            message = f"{where} does not accept this `token`: make a new one with write access at"
            message += f" {where}/settings/tokens, then `hf auth login`, or set HF_TOKEN."
        elif isinstance(error, errors.RepositoryNotFoundError):
            message = f"this `token` may neither see nor create it: use one of {owner!r}, or choose another id."
        elif status is not None and 400 <= status < 500 and status not in _PASSING_STATUS:
            given = error.server_message if isinstance(error, HfHubHTTPError) else None
            message = f"{where} refuses ({given or reason_of(error).rstrip(' .')})."
        if message is not None:
            raise ValueError(f"`repo_id` {self.repo_id!r}: {message}") from error
        if isinstance(error, FileNotFoundError | PermissionError):  # of our files, not of the connection
            raise error


def _failed_transfer(error: Exception) -> Exception:
    """What went wrong: the client wraps whatever happens to a large file in a RuntimeError; hf_xet raises its own."""
    cause = error.__cause__
    if not isinstance(error, RuntimeError) or not isinstance(cause, Exception):
        return error
    if isinstance(cause, _PASSING_ERRORS):
        return cause
    # Its threads share a connection. If one closes it because the server is gone, another may find None in its place
    # (huggingface_hub 1.33 to 2.4), which is an AttributeError.
    is_lost = isinstance(cause, AttributeError)
    return ConnectionError("the connection was lost" if is_lost else f"{reason_of(error)} {reason_of(cause)}")


def _finished(run: Path) -> Path:
    """The folder itself, if it contains something to publish."""
    if not run.is_dir():
        raise ValueError(f"`run` {str(run)!r} is not a folder: give that of a finished run, or an exported encoder.")
    if is_in_training(run):
        raise ValueError(
            f"`run` {str(run)!r} holds a model in training: give the folder of its run, or write its encoder with "
            f"`lejepa export {run} FOLDER` and push that."
        )
    if not is_run(run):
        if not has_weights(run):
            raise ValueError(f"`run` {str(run)!r} has a config.json and no weights: export the encoder again.")
        return _whole(run, run)
    folder = RunFolder(run)
    missing = [f"{path.name}/" for path in (folder.encoder, folder.pretraining) if not has_weights(path)]
    if missing:
        raise ValueError(f"`run` {str(run)!r} has no {' and no '.join(missing)} to push: {_way_out(folder)}.")
    return _whole(run, folder.encoder, folder.pretraining)


def _whole(run: Path, *folders: Path) -> Path:
    """The run, if configs and weights in its folders can be read."""
    names = ("*.json", "*.safetensors")
    damage = first_damage(file for folder in folders for name in names for file in sorted(folder.glob(name)))
    if damage is not None:
        raise ValueError(f"`run` {str(run)!r} is not pushed: {damage}.")
    return run


def _way_out(run: RunFolder) -> str:
    """What to do with a run that cannot be pushed."""
    if has_weights(run.pretraining):
        return f"write it with `lejepa export {run.path}`"
    checkpoints = run.checkpoints()
    if not checkpoints:
        return "give the folder of a finished run, or an exported encoder"
    return (
        f"the run did not end. Continue it with `--resume`, or push a checkpoint of it: `lejepa export "
        f"{checkpoints[-1]}`, then `lejepa push {run.exported(checkpoints[-1])} REPO_ID`"
    )


def _asked_to_wait(error: Exception) -> int:
    asked = error.response.headers.get("Retry-After", "") if isinstance(error, HfHubHTTPError) else ""
    return min(int(asked), _LONGEST_WAIT) if asked.isdecimal() else 0
