"""Sphinx extension: repository, edit and launch buttons, only when the address is set.

The address is `repository: url` in _config.yml, and nothing else has to change with it.
"""

from sphinx.application import Sphinx
from sphinx.config import Config


def add_buttons(app: Sphinx, config: Config) -> None:
    options = config.html_theme_options
    if options.get("repository_url"):
        options["use_repository_button"] = True
        options["use_edit_page_button"] = True
        options["use_issues_button"] = True
        options["launch_buttons"] = {
            "binderhub_url": "https://mybinder.org",
            "notebook_interface": "jupyterlab",
        }


def setup(app: Sphinx) -> dict:
    app.connect("config-inited", add_buttons)
    return {"parallel_read_safe": True}
