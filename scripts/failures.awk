# What the runners of Go's and Python's tests tell of failures, at most 100 lines
# of each and without the servers' own log lines.
/^ *--- FAIL: / || /^panic: / || /^WARNING: DATA RACE/ || /^(FAIL|ERROR): / { left = 100 }
/^ *--- (PASS|SKIP): / || /^(ok|FAIL|\?) *\t/ || /^(PASS|FAIL)$/ || /==> / { if (/^FAIL *\t/) print; left = 0 }
/^ *\{.*"level":/ { next }
left > 0 { print; left-- }
