"The browser and JupyterLab, for every test of this folder."

from browsing import chromium, lab, page, tell  # noqa: F401
