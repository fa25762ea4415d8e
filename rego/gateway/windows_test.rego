package gateway.windows_test

import data.gateway.windows

test_listed_weekdays_pass if {
	not windows.weekday_in({"monday"}) with input.request.weekday as "monday"
	windows.weekday_in({"monday"}) with input.request.weekday as "sunday"
}

test_minutes_include_the_first_and_not_the_last if {
	not windows.minutes_between(480, 540) with input.request.minute_of_day_utc as 480
	not windows.minutes_between(480, 540) with input.request.minute_of_day_utc as 539
	windows.minutes_between(480, 540) with input.request.minute_of_day_utc as 479
	windows.minutes_between(480, 540) with input.request.minute_of_day_utc as 540
}

test_moments if {
	start := "2026-01-31T08:00:00Z"
	at := time.parse_rfc3339_ns(start)
	not windows.not_before(start) with input.request.time_ns as at
	windows.not_before(start) with input.request.time_ns as at - 1
	windows.not_after(start) with input.request.time_ns as at
	not windows.not_after(start) with input.request.time_ns as at - 1
}
