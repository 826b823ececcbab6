"""erpsync: jobs that call APIs, on schedules, with tokens that hold."""
