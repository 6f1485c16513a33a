"""The page of a run: one HTML file with everything in it, that opens without a network and can be shared."""

from attnpatch.evaluation.page.data import page_data
from attnpatch.evaluation.page.render import PAGE, page_html, write_page

__all__ = ["PAGE", "page_data", "page_html", "write_page"]
