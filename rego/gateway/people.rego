# METADATA
# title: People and purposes
# description: |
#   Who may ask, and what for. Each is a denial unless the input names somebody or something that
#   is on the list.
package gateway.people

import data.gateway.denial

# METADATA
# description: Only these purposes, compared letter by letter.
purpose_in(purposes) := denial.of("purpose_not_allowed", "purpose", message, purposes) if {
	not object.get(input, ["job", "purpose"], null) in purposes
	message := sprintf("the purpose must be one of: %v", [concat(", ", purposes)])
}

# METADATA
# description: Only people who have one of these roles.
role_in(roles) := denial.of("role_not_allowed", "subject.roles", message, roles) if {
	not _has_role(roles)
	message := sprintf("one of these roles is needed: %v", [concat(", ", roles)])
}

# METADATA
# description: Only people of these organisations.
organisation_in(names) := denial.of(
	"organisation_not_allowed",
	"subject.organisation",
	message,
	names,
) if {
	not object.get(input, ["subject", "organisation"], null) in names
	message := "the data set is not open to this organisation"
}

# METADATA
# description: Only jobs that are charged to one of these projects.
project_in(projects) := denial.of("project_not_allowed", "project", message, projects) if {
	not object.get(input, ["job", "project"], null) in projects
	message := sprintf("the job must name one of these projects: %v", [concat(", ", projects)])
}

_has_role(roles) if {
	# Iterating over a text is an error to one engine and finds nothing in the other.
	is_array(input.subject.roles)
	some role in input.subject.roles
	role in roles
}
