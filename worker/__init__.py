"""Turns product photos into storefront-ready 3D models, one row of `public.jobs` at a time."""

__version__ = "0.1.0"
