"The browser and JupyterLab, for every test of this folder."

from browsing import chromium, lab, page, tell

__all__ = ['chromium', 'lab', 'page', 'tell']
