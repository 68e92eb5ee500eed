"""Files and what is kept in them: whole writes, resumable lines, claims, read-ahead, many processes."""
