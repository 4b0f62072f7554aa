"""Errors of weights and of fetching them."""


class WeightsMissing(Exception):
    """The weights are missing or wrong. The message names the file and the command that fetches it."""


class NotOfficial(WeightsMissing):
    """The weights can be used but are not the published ones: fine-tuned, of another size, or tampered with."""


class FetchFailed(Exception):
    """The weights could not be fetched. The message says from where and why."""


class SourceUnreachable(FetchFailed):
    """The source does not answer, or stopped answering. A later try may succeed."""


class SourceRefused(FetchFailed):
    """The source answers, but does not have the weights or refuses them."""


class WrongContent(FetchFailed):
    """The source sends something that is not the expected file."""
