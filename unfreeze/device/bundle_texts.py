"""The small files of a bundle: its programs, the units for systemd, and the page that explains them."""

_PROGRAM = '''\
#!/usr/bin/env python3
"""{program} with the model and the modules of this folder; `./{program} --help` lists the options."""

import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE / "lib"))

from unfreeze.device.programs import run  # noqa: E402

sys.exit(run(["{program}", *sys.argv[1:]], model=HERE / "models" / {name!r}, public_key=HERE / "public.pem"))
'''

_ARCHIVE_MAIN = '''\
"""python app.pyz classify|pull ...: the programs of this archive with the model beside it."""

import sys
from pathlib import Path

from unfreeze.device.programs import run

HERE = Path(sys.argv[0]).resolve().parent
sys.exit(run(sys.argv[1:], model=HERE / "models" / {name!r}, public_key=HERE / "public.pem"))
'''

_CLASSIFY_SERVICE = """\
# Classifies each file that is put into /var/lib/unfreeze/inbox; one line of JSON for each in answers.jsonl.
[Unit]
Description=Classify new images with the model {name}

[Service]
User=unfreeze
ExecStart=/opt/unfreeze/venv/bin/python /opt/unfreeze/classify --watch /var/lib/unfreeze/inbox --existing --follow
StandardOutput=append:/var/lib/unfreeze/answers.jsonl
StateDirectory=unfreeze unfreeze/inbox
Restart=on-failure
RestartSec=5
ReadWritePaths=/opt/unfreeze/models
ProtectSystem=strict
ProtectHome=true
PrivateTmp=true
NoNewPrivileges=true

[Install]
WantedBy=multi-user.target
"""

_PULL_SERVICE = """\
# Takes a new version of the model; the running unfreeze-classify.service takes it over. Fill in the source.
[Unit]
Description=Update the model {name}
Wants=network-online.target
After=network-online.target

[Service]
Type=oneshot
User=unfreeze
ExecStart=/opt/unfreeze/venv/bin/python /opt/unfreeze/pull {source} --json
ReadWritePaths=/opt/unfreeze/models
ProtectSystem=strict
ProtectHome=true
PrivateTmp=true
NoNewPrivileges=true
"""

_PULL_TIMER = """\
[Unit]
Description=Update the model {name} every hour

[Timer]
OnBootSec=2min
OnUnitActiveSec=1h
RandomizedDelaySec=10min

[Install]
WantedBy=timers.target
"""

_README = """\
# {name}, version {version}, on a device

Needs Python {python} or newer and the libraries in `requirements.txt`; nothing else is imported. The model was
verified with exactly these versions.

    sudo cp -r . /opt/unfreeze && cd /opt/unfreeze
    sudo python3 -m venv venv
    sudo venv/bin/pip install --no-deps {wheels}-r requirements.txt
    sudo venv/bin/python -m compileall -q lib   # or every start compiles the modules again
    venv/bin/python classify --no-cache IMAGE.jpg

`--no-deps`: ONNX Runtime names packages that answering does not need.

| file | what |
|---|---|
| `classify` | images, a folder or a camera to lines of JSON |
| `pull` | takes a new version of the model from a folder, HTTP(S) or a bucket |
| `app.pyz` | both in one file: `python3 app.pyz classify IMAGE.jpg`, with `models/` beside it |
| `lib/` | the modules of unfreeze that these programs import |
| `models/{name}/` | the model |
| `systemd/` | units for both |

## As a service

    sudo useradd --system --no-create-home unfreeze
    sudo chown -R unfreeze models
    sudo cp systemd/unfreeze-classify.service /etc/systemd/system/
    sudo systemctl enable --now unfreeze-classify

Put images into `/var/lib/unfreeze/inbox`; answers are appended to `/var/lib/unfreeze/answers.jsonl`. Files are not
deleted. After a restart, all files that are still there are classified again.

## Updates

Fill in the source in `systemd/unfreeze-pull.service`, then

    sudo cp systemd/unfreeze-pull.* /etc/systemd/system/
    sudo systemctl enable --now unfreeze-pull.timer

A new version is checked, tried with its golden images on this device, and swapped in by a rename. The version before it
stays. If anything fails, the old version goes on answering, and `pull` exits with 1.
{signed}"""

_SIGNED = """
Only versions that are signed with the key of `public.pem` are taken.
"""


def programs(name: str) -> dict[str, str]:
    """Write the programs of a bundle, by file name.

    Args:
        name: of the model.
    """
    return {program: _PROGRAM.format(program=program, name=name) for program in ("classify", "pull")}


def archive_main(name: str) -> str:
    """Write `__main__.py` of the archive.

    Args:
        name: of the model.
    """
    return _ARCHIVE_MAIN.format(name=name)


def units(name: str, source: str) -> dict[str, str]:
    """Write the units for systemd, by file name.

    Args:
        name: of the model.
        source: that `pull` takes new versions from; empty to be filled in.
    """
    source = source or f"https://example.org/models/{name}"
    return {
        "unfreeze-classify.service": _CLASSIFY_SERVICE.format(name=_escaped(name)),
        "unfreeze-pull.service": _PULL_SERVICE.format(name=_escaped(name), source=_argument(source)),
        "unfreeze-pull.timer": _PULL_TIMER.format(name=_escaped(name)),
    }


def _escaped(text: str) -> str:
    """Escape systemd's specifiers, and what ends a line."""
    return "".join(one if one.isprintable() else " " for one in text).replace("%", "%%")


def _argument(text: str) -> str:
    """Quote an argument of a command as systemd.service(5) says, where that is needed."""
    text = text.replace("\\", "\\\\").replace('"', '\\"').replace("%", "%%").replace("$", "$$")
    return f'"{text}"' if set(text) & set(" '\";") else text


def readme(name: str, version: int, python: str, *, wheels: bool, signed: bool) -> str:
    """Write the page for the person at the device.

    Args:
        name: of the model.
        version: of the model.
        python: the oldest version of Python, "MAJOR.MINOR".
        wheels: whether the libraries are in the bundle.
        signed: whether a public key is in it.
    """
    return _README.format(
        name=name,
        version=version,
        python=python,
        wheels="--no-index --find-links wheels " if wheels else "",
        signed=_SIGNED if signed else "",
    )
