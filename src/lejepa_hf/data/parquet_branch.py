"""The branch on which the Hub keeps Parquet files of a dataset, for repositories that hold only a program."""

from huggingface_hub import HfApi
from huggingface_hub.errors import HfHubHTTPError, RevisionNotFoundError

from .network import is_network_error

PARQUET_BRANCH = "refs/convert/parquet"
_WAY_OUT = "Use another copy of the dataset, or download its images and name the folder."
_PARTIAL = "partial-"  # in front of a split of which only the first gigabytes were converted


def holds_program(path: str) -> bool:
    """Whether a dataset of the Hub is a program that makes images; False if the Hub does not answer."""
    try:
        return f"{path.split('/')[-1]}.py" in HfApi().list_repo_files(path, repo_type="dataset")
    except Exception as error:
        if is_network_error(error) or isinstance(error, HfHubHTTPError):
            return False
        raise


def list_parquet_branch(path: str) -> list[str]:
    """Parquet files `CONFIGURATION/SPLIT/NUMBER.parquet` that the Hub made of a dataset; empty without the branch."""
    try:
        files = HfApi().list_repo_files(path, repo_type="dataset", revision=PARQUET_BRANCH)
    except RevisionNotFoundError:
        return []
    return [file for file in files if file.endswith(".parquet") and file.count("/") == 2]


def choose_configuration(files: list[str], name: str, config: str | None) -> tuple[str, dict[str, str]]:
    """
    Choose among `files` of the branch: the configuration `config`, or the only one, and a glob for each of its splits.

    Raises:
        ValueError: If there are no files, the configuration is unknown or one of several, or part of it is missing.
            They would be read as one dataset otherwise.
    """
    configs = sorted({file.split("/")[0] for file in files})
    if not configs:
        raise ValueError(
            f"`dataset` {name!r} cannot be read: programs are never run, and the Hub has no Parquet files of it under "
            f"`revision: {PARQUET_BRANCH}`. {_WAY_OUT}"
        )
    if config is None and len(configs) > 1:
        raise ValueError(
            f"`dataset` {name!r} has several configurations, set `config` (in a recipe `dataset_config`): one of "
            f"{', '.join(configs)}."
        )
    if config not in (None, *configs):
        raise ValueError(f"`dataset` {name!r} has no `config` {config!r}: it has {', '.join(configs)}.")
    chosen = config or configs[0]
    splits = sorted({file.split("/")[1] for file in files if file.startswith(f"{chosen}/")})
    partial = [split for split in splits if split.startswith(_PARTIAL)]
    if partial:
        raise ValueError(
            f"`dataset` {name!r} cannot be read: programs are never run, and the Hub has Parquet files of only a part "
            f"of it ({', '.join(partial)}). {_WAY_OUT}"
        )
    return chosen, {split: f"{chosen}/{split}/*.parquet" for split in splits}
