"""The catalogue of what token endpoints, networks and clocks do: each id has tests named after it."""

CASE_IDS = (
    "T02", "T03", "T04", "T06", "T07", "T09",  # how long a token lives
    "T11", "T12", "T13", "T14", "T16", "T20", "T21", "T22",  # the shape of an answer
    "T25", "T26", "T27", "T29", "T30", "T31", "T32",  # errors and waits
    "T35", "T37", "T38",  # the API says 401
    "T41", "T42", "T43", "T44",  # network and crowds
    "T46", "T47", "T50", "T51",  # refresh tokens
    "T54", "T56", "T57",  # roll-over, clocks
    "T59", "T60", "T61",  # discovery
    "T66",  # tokens made by hand
)  # fmt: skip
