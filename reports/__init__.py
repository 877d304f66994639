"""Frames in, reports out: tables, charts, one page, and the published figures beside the measured ones."""
