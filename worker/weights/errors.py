"""What can be wrong with weights, and with fetching them."""


class WeightsMissing(Exception):
    """The weights are not there or not right; the message names the file and the command that helps."""


class NotOfficial(WeightsMissing):
    """The weights can be used, but are not the published ones: fine-tuned, of another size, or tampered with."""


class FetchFailed(Exception):
    """The weights could not be fetched; the message says from where and why."""


class SourceUnreachable(FetchFailed):
    """The source does not answer, or stopped: the same command may help later."""


class SourceRefused(FetchFailed):
    """The source answers, and has not got the weights or does not give them."""


class WrongContent(FetchFailed):
    """The source gives something else than the weights."""
