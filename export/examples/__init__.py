"""Networks that are not IceMix, for docs/models.md."""
