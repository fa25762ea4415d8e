package gateway.people_test

import data.gateway.people

test_listed_purposes_pass if {
	not people.purpose_in({"research", "teaching"}) with input.job.purpose as "teaching"
}

test_other_purposes_are_denied_with_the_list if {
	denial := people.purpose_in({"research", "teaching"}) with input.job.purpose as "Teaching"
	denial.code == "purpose_not_allowed"
	denial.message == "the purpose must be one of: research, teaching"
}

test_one_role_is_enough if {
	not people.role_in({"researcher"}) with input.subject.roles as ["guest", "researcher"]
	people.role_in({"researcher"}) with input.subject.roles as ["guest"]
	people.role_in({"researcher"}) with input.subject.roles as []
}

test_listed_projects_pass if {
	not people.project_in({"heart", "lung"}) with input.job.project as "lung"
	denial := people.project_in({"heart", "lung"}) with input.job.project as ""
	denial.message == "the job must name one of these projects: heart, lung"
	people.project_in({"heart"}) with input as {}
}

test_organisations if {
	not people.organisation_in({"faculty"}) with input.subject.organisation as "faculty"
	people.organisation_in({"faculty"}) with input.subject.organisation as "other"
}
