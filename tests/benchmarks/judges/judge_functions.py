"""Python functions as judges."""


def longer(instruction, response):
    return len(response)


def first(instruction, first, second):
    """Likes the first place, and a good response."""
    return 0.3 + 0.4 * ("good" in second) - 0.2 * ("good" in first)


def sure(instruction, first, second):
    return 2.0


def undecided(instruction, response):
    return float("nan")


def alone(instruction):
    return 1.0


def sometimes(instruction, response):
    """Prefers the longer, and says nothing of about one instruction in forty."""
    return float("nan") if len(instruction) % 40 == 7 else len(response)


def rarely(instruction, response):
    """Says something of about one instruction in three."""
    return len(response) if len(instruction) % 3 == 0 else float("nan")
