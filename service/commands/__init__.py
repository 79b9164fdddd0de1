"""The commands of `genadapter`, one topic a file; each adds itself to the app in `service.cli`."""
