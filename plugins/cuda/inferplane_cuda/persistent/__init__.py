"""Steps of one token as one launch: ops are noted on a tape, and a kernel that stays walks it."""
