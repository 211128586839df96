"""What stands around the code: one-command set-up, packaging, containers and documents that fit it and one another."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import tomllib
import zipfile
from importlib.metadata import version
from pathlib import Path

import pytest
import typer.main
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from app import cli

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
COMPOSE = yaml.safe_load((ROOT / "docker-compose.yml").read_text())
COMMANDS = set(typer.main.get_command(cli.app).commands)
OURS = ("migrate", "web", "beat", "worker", "gpu-worker")


def make_targets() -> set[str]:
    return set(re.findall(r"^([a-z-]+):.*## ", (ROOT / "Makefile").read_text(), re.MULTILINE))


# One-command set-up


def test_the_readme_names_the_two_commands_and_ci_runs_the_second():
    readme = (ROOT / "README.md").read_text()
    first_block = readme.split("```")[1]
    assert [line.split("#")[0].strip() for line in first_block.strip().splitlines()] == ["make demo", "make test"]
    assert "exec make test" in (ROOT / ".ci" / "run").read_text()


def test_make_alone_lists_every_target():
    listed = subprocess.run(["make", "-C", str(ROOT)], capture_output=True, text=True, check=True).stdout
    assert set(re.findall(r"^  make ([a-z-]+)", listed, re.MULTILINE)) == make_targets()
    assert make_targets() >= {"demo", "test", "lint", "types", "migrate", "serve", "worker", "bench"}


@pytest.mark.parametrize("document", ["README.md", "CONTRIBUTING.md"])
def test_documents_name_only_commands_that_exist(document):
    text = (ROOT / document).read_text()
    assert set(re.findall(r"`make ([a-z-]+)", text)) <= make_targets()
    assert set(re.findall(r"`plackett ([a-z-]+)", text)) <= COMMANDS


@pytest.mark.parametrize("document", ["README.md", "CONTRIBUTING.md", *(map(str, ROOT.glob("docs/**/*.md")))])
def test_links_between_documents_lead_somewhere(document):
    path = ROOT / document
    for target in re.findall(r"\]\((?!https?:)([^)#]+)", path.read_text()):
        assert (path.parent / target).exists(), f"{path.name} links to {target}"


def test_every_decision_is_in_the_index():
    folder = ROOT / "docs" / "decisions"
    index = (folder / "README.md").read_text()
    assert all(page.name in index for page in folder.glob("0*.md"))


# Packaging


def test_every_dependency_is_pinned_to_a_version_that_fits():
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    pins = {
        canonicalize_name(name): pinned
        for name, _, pinned in (line.partition("==") for line in lines if line and not line.startswith("#"))
    }
    named = [Requirement(line) for line in PROJECT["dependencies"] + PROJECT["optional-dependencies"]["dev"]]
    for requirement in named:
        pinned = pins[canonicalize_name(requirement.name)]
        assert pinned in requirement.specifier, requirement
        assert version(requirement.name).split("+")[0] == pinned, f"{requirement.name}: run `make setup`"


def test_a_wheel_holds_templates_styles_migrations_and_the_data_of_the_demo(tmp_path):
    for name in ("app", "trainer", "migrations", "templates"):
        shutil.copytree(ROOT / name, tmp_path / "source" / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, tmp_path / "source")
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check"]
    subprocess.run(
        [*pip, "wheel", "-q", "--no-deps", "--no-build-isolation", "-w", str(tmp_path), str(tmp_path / "source")],
        check=True,
    )
    (wheel,) = tmp_path.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        packed = set(archive.namelist())
    wanted = {
        str(path.relative_to(ROOT))
        for pattern in ("app/**/*", "templates/**/*", "migrations/**/*", "trainer/**/*")
        for path in ROOT.glob(pattern)
        if path.is_file() and "__pycache__" not in path.parts
    }
    assert wanted <= packed, f"not packed: {sorted(wanted - packed)}"


# Containers


def test_compose_has_the_processes_of_the_design():
    assert set(COMPOSE["services"]) == {"postgres", "redis", *OURS}
    for name in OURS:
        service = COMPOSE["services"][name]
        assert service["image"] == "plackett"
        assert service["command"][0] in COMMANDS


def test_compose_migrates_before_our_processes_start():
    services = COMPOSE["services"]
    assert services["migrate"]["depends_on"] == {"postgres": {"condition": "service_healthy"}}
    for name in set(OURS) - {"migrate"}:
        assert services[name]["depends_on"]["migrate"] == {"condition": "service_completed_successfully"}
    assert all("healthcheck" in service for service in services.values())


def test_compose_has_no_default_password_and_publishes_the_web_only():
    text = (ROOT / "docker-compose.yml").read_text()
    assert re.findall(r"\$\{(\w*PASSWORD\w*)(?!\w|:\?|\})", text) == []
    assert [name for name, service in COMPOSE["services"].items() if "ports" in service] == ["web"]
    assert COMPOSE["services"]["web"]["ports"] == ["${PLACKETT_PUBLISH:-127.0.0.1:8000}:8000"]
    variables = set(re.findall(r"\$\{(\w+)", text))
    assert variables <= set(re.findall(r"^#?(\w+)=", (ROOT / ".env.example").read_text(), re.MULTILINE))


def test_compose_accepts_its_files():
    asked = ["docker", "compose", "version"]
    if shutil.which("docker") is None or subprocess.run(asked, capture_output=True, check=False).returncode != 0:
        pytest.skip("the Docker plugin `compose` is not installed")
    for files in (["docker-compose.yml"], ["docker-compose.yml", "docker-compose.gpu.yml"]):
        named = [word for file in files for word in ("-f", file)]
        done = subprocess.run(
            ["docker", "compose", *named, "config", "--quiet"],
            cwd=ROOT,
            env={"PATH": "/usr/local/bin:/usr/bin:/bin", "POSTGRES_PASSWORD": "a", "REDIS_PASSWORD": "b"},
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr


def test_the_image_does_not_run_as_root_and_its_sources_are_let_through():
    dockerfile = (ROOT / "Dockerfile").read_text()
    assert "\nUSER plackett\n" in dockerfile.rpartition("\nFROM ")[2]
    allowed = set(re.findall(r"^!(\S+)", (ROOT / ".dockerignore").read_text(), re.MULTILINE))
    copied = {
        source
        for line in dockerfile.splitlines()
        if line.startswith("COPY") and "--from" not in line
        for source in line.split()[1:-1]
    }
    assert copied == allowed
    assert all((ROOT / source).exists() for source in copied)
