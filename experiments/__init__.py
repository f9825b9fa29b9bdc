"""Experiments on the testbed: run -> raw samples on disk -> analysis -> plots and a page.

Only the run needs root; analysis, plots and page are made again from disk at any time.
"""
