"""`python -m datasets.check` is `reverie check`, which is defined with the other commands."""

from pkgutil import resolve_name

if __name__ == "__main__":
    resolve_name("reverie.training.launch.mistakes:run")(
        resolve_name("reverie.training.launch.check:main")
    )
