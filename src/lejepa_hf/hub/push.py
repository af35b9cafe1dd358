"""A finished run, or an exported encoder -> a repository on the Hub."""

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from huggingface_hub import (
    CommitOperationAdd,
    CommitOperationDelete,
    HfApi,
    ModelInfo,
    SpaceInfo,
    constants,
    get_token,
)
from huggingface_hub.errors import (
    GatedRepoError,
    HfHubHTTPError,
    HFValidationError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from huggingface_hub.utils import get_session, validate_repo_id
from transformers.utils import logging

from .public_files import is_of_this_package, is_run, public_files

logger = logging.get_logger(__name__)

# Seconds before each further try. The client has tried six times by itself then, except to create and to commit.
_WAITS = (1, 2, 4, 8, 16)
_LONGEST_WAIT = 300  # that a server may ask for
_LONGEST_SILENCE = 300  # of a connection; the client would wait for ever
_PASSING_STATUS = (408, 429, 500, 502, 503, 504)
# `HTTPError` of httpx or httpx2, whichever the installed client uses: connections refused, cut and timed out.
ConnectionTrouble = HfHubHTTPError.__bases__[0]
_PASSING_ERRORS = (ConnectionTrouble, OSError, RuntimeError, json.JSONDecodeError)

Result = TypeVar("Result")


def push_run(
    run: str | Path,
    repo_id: str,
    private: bool | None = None,
    revision: str | None = None,
    token: str | None = None,
) -> str:
    """
    Publish a run: the encoder at the root of the repository, so that `AutoModel` and pipelines load it by its id;
    `pretraining/` to continue from; pictures, recipe, versions, results and metrics.

    Of texts, paths of this machine and tokens are left out; optimizer state and checkpoints never leave it. Files that
    the repository has already are not sent again, and after a failure the same call goes on.

    Args:
        run (`str` or `Path`): A finished run's folder, or an encoder folder that `export_encoder` wrote.
        repo_id (`str`): `user/name`; made if missing.
        private (`bool`, *optional*): Whether others must not see it. If missing, the account's default.
        revision (`str`, *optional*, defaults to `"main"`): Branch; made if missing.
        token (`str`, *optional*): If missing, that of `HF_TOKEN` or `hf auth login`.

    Returns:
        `str`: Address of the repository.

    Raises:
        ValueError: If there is no finished run, or the id, the token or its rights do not do; nothing was sent then.
        OSError: If the Hub cannot be reached, or not long enough.
    """
    files = public_files(_finished(Path(run)))
    target = Target(repo_id, private, revision, token)
    known = target.prepare()
    target.commit(files, known)
    return target.url


class Target:
    """
    A branch of a repository to write to.

    Args:
        repo_id, private, revision, token: As of [`push_run`].
        is_space (`bool`, *optional*, defaults to `False`): Whether it is no model's but a Space's, run by Gradio.

    Raises:
        ValueError: If the id is none, or there is no token.
    """

    def __init__(
        self,
        repo_id: str,
        private: bool | None = None,
        revision: str | None = None,
        token: str | None = None,
        is_space: bool = False,
    ):
        try:
            validate_repo_id(repo_id)
        except HFValidationError as error:
            raise ValueError(f"`repo_id` {repo_id!r} is no name of a repository: {_first_line(error)}") from None
        if repo_id.count("/") != 1:
            raise ValueError(f"`repo_id` {repo_id!r} must be of the form 'user/name', the user being your account.")
        if not (token or get_token()):
            raise ValueError(
                f"`token` is missing, and `repo_id` {repo_id!r} cannot be written without one: log in with `hf auth "
                "login`, or set HF_TOKEN."
            )
        self.repo_id, self.private, self.branch = repo_id, private, revision or constants.DEFAULT_REVISION
        self._api = HfApi(token=token)
        self._kind = {"repo_type": "space" if is_space else "model"}
        self.url = f"{self._api.endpoint}/{'spaces/' if is_space else ''}{repo_id}"
        if self.branch != constants.DEFAULT_REVISION:
            self.url += f"/tree/{self.branch}"

    def prepare(self) -> ModelInfo | SpaceInfo:
        """
        Make repository and branch where they are missing, and see that they can be written.

        Returns:
            `ModelInfo` or `SpaceInfo`: What lies there.

        Raises:
            ValueError, OSError: As of [`push_run`].
        """
        sdk = {"space_sdk": "gradio"} if self._kind["repo_type"] == "space" else {}
        self._try(
            lambda: self._api.create_repo(self.repo_id, private=self.private, exist_ok=True, **self._kind, **sdk)
        )
        info = self._try(lambda: self._api.repo_info(self.repo_id, **self._kind))
        if self.private and not info.private:
            raise ValueError(
                f"`private`: {self.repo_id!r} exists and everybody can read it. Make it private in its settings, or "
                "choose another `repo_id`."
            )
        if self.branch != constants.DEFAULT_REVISION:
            self._try(lambda: self._api.create_branch(self.repo_id, branch=self.branch, exist_ok=True, **self._kind))
            info = self._try(lambda: self._api.repo_info(self.repo_id, revision=self.branch, **self._kind))
        # Sends nothing, and is refused to those who may read only: to them a repository that exists looks like made.
        probe = [CommitOperationAdd("config.json", b"{}")]
        self._try(lambda: self._api.preupload_lfs_files(self.repo_id, probe, revision=self.branch, **self._kind))
        return info

    def commit(
        self,
        files: dict[str, Path | bytes],
        known: ModelInfo | SpaceInfo,
        is_ours: Callable[[str], bool] = is_of_this_package,
        message: str = "LeJEPA encoder",
    ) -> None:
        """
        Send what is new in one commit.

        Args:
            files (`dict[str, Path | bytes]`): Name in the repository -> file or content.
            known (`ModelInfo` or `SpaceInfo`): From [`prepare`]. Files of an earlier push that are not in `files` are
                deleted; what others put there stays.
            is_ours (`Callable`, *optional*): Whether a push may have written a file of that name.
            message (`str`, *optional*, defaults to `"LeJEPA encoder"`): Of the commit; on other branches their name.

        Raises:
            ValueError, OSError: As of [`push_run`].
        """
        there = [sibling.rfilename for sibling in known.siblings or []]
        stale = [name for name in there if name not in files and is_ours(name)]
        size = sum(len(file) if isinstance(file, bytes) else file.stat().st_size for file in files.values())
        logger.info(f"{len(files)} files, {size / 1e6:,.1f} MB, to {self.url}; those it has already are not sent.")
        self._try(
            lambda: self._api.create_commit(
                self.repo_id,
                # Anew in each try: they remember what the server had.
                [
                    *(CommitOperationAdd(name, file) for name, file in files.items()),
                    *(CommitOperationDelete(name, is_folder=False) for name in stale),
                ],
                commit_message=message if self.branch == constants.DEFAULT_REVISION else self.branch,
                revision=self.branch,
                **self._kind,
            )
        )

    def _try(self, call: Callable[[], Result], failed: int = 0) -> Result:
        client = get_session()
        before, client.timeout = client.timeout, _LONGEST_SILENCE
        try:
            return call()
        except OfflineModeIsEnabled as error:
            raise ValueError(
                f"`repo_id` {self.repo_id!r} cannot be written in offline mode: unset HF_HUB_OFFLINE."
            ) from error
        except _PASSING_ERRORS as error:
            cause = error
            if isinstance(error, RuntimeError):  # what happens to a large file is wrapped, or comes from hf_xet
                cause = error.__cause__ or error
            if not isinstance(cause, _PASSING_ERRORS):
                raise
            self._refuse(cause)
            reason = _first_line(cause)
            if failed == len(_WAITS):
                raise OSError(
                    f"`repo_id` {self.repo_id!r}: {self._api.endpoint} did not take it ({reason}), {failed} further "
                    "tries included. What arrived is kept: the same command goes on from there."
                ) from error
            wait = max(_WAITS[failed], _asked_to_wait(cause))
            logger.warning(f"{reason}: trying again in {wait} s.")
        finally:
            client.timeout = before
        time.sleep(wait)
        return self._try(call, failed + 1)

    def _refuse(self, error: Exception) -> None:
        """What no further try changes, as one line that says what would."""
        response = getattr(error, "response", None)
        status = response.status_code if response is not None else None
        owner, where = self.repo_id.split("/")[0], self._api.endpoint
        message = None
        if isinstance(error, GatedRepoError):
            message = f"it is gated and this account was not let in: ask for it at {self.url}, or choose"
            message += " an id under your own name."
        elif isinstance(error, RevisionNotFoundError):
            message = f"it has no branch {self.branch!r} to write to: choose another `revision`."
        elif status == 403:
            message = f"this `token` has no right to write there: use one with write access to {owner!r}, or choose an"
            message += " id under your own name."
        elif status == 401:
            message = f"{where} does not accept this `token`: make a new one with write access at"
            message += f" {where}/settings/tokens, then `hf auth login`, or set HF_TOKEN."
        elif isinstance(error, RepositoryNotFoundError):
            message = f"this `token` cannot see it and may not make it: use one of {owner!r}, or choose another id."
        elif status is not None and 400 <= status < 500 and status not in _PASSING_STATUS:
            message = f"{where} refuses ({getattr(error, 'server_message', None) or _first_line(error)})."
        if message is not None:
            raise ValueError(f"`repo_id` {self.repo_id!r}: {message}") from error
        if isinstance(error, FileNotFoundError | PermissionError):  # ours, not the connection's
            raise error


def _finished(run: Path) -> Path:
    """The folder itself, if there is something to publish in it."""
    if not run.is_dir():
        raise ValueError(f"`run` {str(run)!r} is no folder: give that of a finished run, or an exported encoder.")
    config = run / "config.json"
    if (run / "trainer_state.json").is_file() or (
        config.is_file() and '"lejepa"' in config.read_text(encoding="utf-8")
    ):
        raise ValueError(
            f"`run` {str(run)!r} is a model in training: give the folder of its run, or write its encoder with "
            f"`lejepa export {run} FOLDER` and push that."
        )
    if not is_run(run):
        if not _has_weights(run):
            raise ValueError(f"`run` {str(run)!r} has a config.json and no weights: export the encoder anew.")
        return run
    missing = [name for name in ("encoder", "pretraining") if not _has_weights(run / name)]
    if not missing:
        return run
    checkpoints = sorted((path.name for path in run.glob("checkpoint-*")), key=lambda name: (len(name), name))
    if _has_weights(run / "pretraining"):
        way_out = f"write it with `lejepa export {run}`"
    elif checkpoints:
        newest = checkpoints[-1]
        way_out = (
            f"the run did not end. Continue it with `--resume`, or push a checkpoint of it: `lejepa export "
            f"{run / newest}`, then `lejepa push {run / newest.replace('checkpoint', 'encoder')} REPO_ID`"
        )
    else:
        way_out = "give the folder of a finished run, or an exported encoder"
    raise ValueError(
        f"`run` {str(run)!r} has no {' and no '.join(f'{name}/' for name in missing)} to push: {way_out}."
    )


def _has_weights(folder: Path) -> bool:
    return (folder / "config.json").is_file() and any(folder.glob("model*.safetensors"))


def _asked_to_wait(error: Exception) -> int:
    response = getattr(error, "response", None)
    asked = response.headers.get("Retry-After", "") if response is not None else ""
    return min(int(asked), _LONGEST_WAIT) if asked.isdecimal() else 0


def _first_line(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0].rstrip(".") if lines else type(error).__name__
