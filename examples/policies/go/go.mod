module my_policy

go 1.24
