"""The model registry: exported models as versions of a registered model of MLflow, and the aliases that say which is served.

A version keeps the files of its model as they lie in Triton's repository, and their digest as a tag. An alias is moved by
`icestream models` or on MLflow's own pages; what it asks for is served once it is proved (deployer/).
"""

import math
import os
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from icestream.inference.model_files import CONFIG, MEMBERS, checkpoint, digest, members
from icestream.results.mlflow_names import EXPERIMENT, EXPERIMENT_TAGS, MODELS_EXPERIMENT

# The client would hold a call for minutes while its server is away.
os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "20")
os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
os.environ.setdefault("MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", "true")

from google.protobuf.json_format import ParseError
from mlflow import MlflowClient
from mlflow.artifacts import download_artifacts
from mlflow.exceptions import MlflowException
from requests import RequestException

REGISTERED = "icemix"  # name of the registered model
CHAMPION, PREVIOUS, CHALLENGER = "champion", "previous", "challenger"
FILES = "model"  # artifact folder of the run of a version
# Tags of a version. By the checkpoint, which config.pbtxt names as well, the recorder finds the version that made a result.
CHECKPOINT_TAG, DIGEST_TAG = "checkpoint", "digest"
SHARE_TAG = "challenge.share"  # of the events that it answers as challenger
PROMOTED_TAGS = ("promoted.by", "promoted.because", "promoted.gate")
SHARE = 0.2  # without that tag
FIRST_TAG = "first_digest"  # of the registered model


class RegistryError(RuntimeError):
    """The registry does not answer, or does not do what it was asked for; the message names the cause."""


@dataclass(frozen=True, kw_only=True)
class Version:
    """A registered version of the model."""

    version: str
    digest: str
    checkpoint: str
    aliases: tuple[str, ...]
    share: float  # of the events that it answers as challenger; NaN if its tag is no such number
    created_ms: int  # Unix time
    run_id: str


class Registry:
    """The versions of one registered model. Every method raises RegistryError.

    Args:
        url: of the MLflow server.
        model: name of the registered model.
    """

    def __init__(self, url: str, model: str):
        self.url, self.model = url, model
        self._client = MlflowClient(url)

    def versions(self) -> list[Version]:
        """All of them, the latest first; none where the model was never registered."""
        with _words(self.url):
            found = self._client.search_model_versions(f"name = '{self.model}'")
            aliases: dict[str, list[str]] = {}
            if found:
                for alias, number in self._client.get_registered_model(self.model).aliases.items():
                    aliases.setdefault(str(number), []).append(alias)
        versions = [
            Version(
                version=str(one.version),
                digest=one.tags.get(DIGEST_TAG, ""),
                checkpoint=one.tags.get(CHECKPOINT_TAG, ""),
                aliases=tuple(sorted(aliases.get(str(one.version), ()))),
                share=_share(one.tags.get(SHARE_TAG, str(SHARE))),
                created_ms=one.creation_timestamp,
                run_id=one.run_id or "",
            )
            for one in found
        ]
        return sorted(versions, key=lambda one: int(one.version), reverse=True)

    def register(self, folder: Path, metrics: Mapping[str, float]) -> str:
        """Keep the files of a model as a new version, without an alias; returns its number.

        Args:
            folder: of the model in a repository of Triton's.
            metrics: how good it is on events that were held out.
        """
        with _words(self.url):
            weights, files = checkpoint(folder) if (folder / CONFIG).exists() else "", digest(folder)
            # That of the stream first: the page's link to it has the number of the first experiment.
            _, experiment_id = (self._experiment(name) for name in (EXPERIMENT, MODELS_EXPERIMENT))
            run_id = self._client.create_run(experiment_id, run_name=weights or folder.name).info.run_id
            for name, value in metrics.items():
                self._client.log_metric(run_id, name, value)
            self._client.log_artifacts(run_id, str(folder), FILES)
            for member in members(folder):
                self._client.log_artifacts(run_id, str(member), f"{FILES}/{MEMBERS}/{member.name}")
            self._client.set_terminated(run_id)
            try:
                self._client.create_registered_model(self.model)
            except MlflowException as error:
                if error.error_code != "RESOURCE_ALREADY_EXISTS":
                    raise
            tags = {CHECKPOINT_TAG: weights, DIGEST_TAG: files}
            made = self._client.create_model_version(
                self.model, f"runs:/{run_id}/{FILES}", run_id, tags=tags, await_creation_for=0
            )
        return str(made.version)

    def fetch(self, version: Version, folder: Path) -> None:
        """Download the files of a version into a new folder; RegistryError where they are not those that were registered."""
        with _words(self.url), tempfile.TemporaryDirectory(dir=folder.parent, prefix=".fetching-") as temporary:
            got = Path(
                download_artifacts(
                    run_id=version.run_id, artifact_path=FILES, dst_path=temporary, tracking_uri=self.url
                )
            )
            if not version.digest or digest(got) != version.digest:
                raise RegistryError(
                    f"the files of version {version.version} are not those that were registered (their SHA-256 is another "
                    "one): register them again"
                )
            got.rename(folder)

    def first_digest(self) -> str:
        """That of the model that was made champion because Triton had it from the start; empty before the first one."""
        with _words(self.url):
            try:
                return str(self._client.get_registered_model(self.model).tags.get(FIRST_TAG, ""))
            except MlflowException as error:
                if error.error_code != "RESOURCE_DOES_NOT_EXIST":
                    raise
                return ""

    def set_first_digest(self, digest: str) -> None:
        with _words(self.url):
            self._client.set_registered_model_tag(self.model, FIRST_TAG, digest)

    def _experiment(self, name: str) -> str:
        found = self._client.get_experiment_by_name(name)
        return str(found.experiment_id if found else self._client.create_experiment(name, tags=dict(EXPERIMENT_TAGS)))

    def set_alias(self, alias: str, version: str) -> None:
        with _words(self.url):
            self._client.set_registered_model_alias(self.model, alias, version)

    def delete_alias(self, alias: str) -> None:
        with _words(self.url):
            self._client.delete_registered_model_alias(self.model, alias)

    def tag(self, version: str, name: str, value: str) -> None:
        with _words(self.url):
            self._client.set_model_version_tag(self.model, version, name, value)


def _share(text: str) -> float:
    with suppress(ValueError):
        if 0 < float(text) <= 1:
            return float(text)
    return math.nan


@contextmanager
def _words(url: str) -> Iterator[None]:
    """Errors of MLflow's client as RegistryError."""
    try:
        yield
    except (MlflowException, RequestException, ParseError, ValueError) as error:
        said = (str(error).splitlines() or [type(error).__name__])[0][:300]
        raise RegistryError(f"the MLflow server at {url} does not do as asked: {said}") from None
    except OSError as error:  # of this machine: a full disk, no permission
        raise RegistryError(f"{error.filename or 'this machine'}: {error.strerror or error}") from None
