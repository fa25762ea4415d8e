# METADATA
# title: Windows of time
# description: |
#   When a job may be asked for. All times are in UTC and come from the input; a policy has no clock.
package gateway.windows

import data.gateway.denial
import data.gateway.number

# METADATA
# description: Only on these days, written as "monday".
weekday_in(days) := denial.of("weekday_not_allowed", "request.time", message, days) if {
	not _on(days)
	message := sprintf("jobs may be asked for on: %v (UTC)", [concat(", ", days)])
}

# METADATA
# description: Only from one minute of the day until before another; 8 * 60 is eight in the morning.
minutes_between(first, after) := denial.of(
	"time_of_day_not_allowed",
	"request.time",
	"jobs may not be asked for at this time of day",
	[first, after],
) if {
	not _in_minutes(first, after)
}

# METADATA
# description: Not before this moment, written as "2026-01-31T08:00:00Z".
not_before(moment) := denial.of("too_early", "request.time", message, moment) if {
	start := time.parse_rfc3339_ns(moment)
	not _from(start)
	message := sprintf("jobs may be asked for from %v", [moment])
}

# METADATA
# description: Only before this moment, written as "2026-01-31T08:00:00Z".
not_after(moment) := denial.of("too_late", "request.time", message, moment) if {
	end := time.parse_rfc3339_ns(moment)
	not _before(end)
	message := sprintf("jobs may be asked for before %v", [moment])
}

_on(days) if input.request.weekday in days

_from(start) if number.at_least(input.request.time_ns, start)

_before(end) if number.at_most(input.request.time_ns + 1, end)

_in_minutes(first, after) if {
	number.at_least(input.request.minute_of_day_utc, first)
	number.at_most(input.request.minute_of_day_utc + 1, after)
}
