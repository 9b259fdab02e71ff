package main

// registeredBugs let somebody name machines that are not his, or keep names that are
// gone.
var registeredBugs = []bug{
	{"a grant of level operator names the machine", "account/registered.go",
		`p.holds.Level == odometer.LevelManager)`,
		`p.holds.Level != odometer.LevelReadOnly)`,
		"account.TestWhoNamesAnInstance"},
	{"a machine that is not seen is told to be there", "account/registered.go",
		`case p.sees || p.holds != nil:`,
		`case true:`,
		"account.TestWhoNamesAnInstance"},
	{"anybody creates machines", "account/registered.go",
		`cmpErr(validRegistered(&r), operator(&by.Caller)); err == nil`,
		`validRegistered(&r); err == nil`,
		"account.TestWhoNamesAnInstance"},
	{"what is kept is changed whatever its version", "account/registered.go",
		`if err := checkVersion(version, seen); err != nil {`,
		`if err := checkVersion(version, seen); err != nil && false {`,
		"account.TestTheLifeOfAnInstancesRecord"},
	{"a machine is found by a label that it had", "account/registered.go",
		`DELETE FROM account_instance_labels WHERE instance = ?`,
		`DELETE FROM account_instance_labels WHERE instance = ? AND label = ''`,
		"account.TestTheLifeOfAnInstancesRecord"},
	{"a name that was erased is answered by its key", "account/registered.go",
		`if err == nil && action == odometer.ActionInstanceDelete {`,
		`if err == nil && action == "" {`,
		"account.TestTheLifeOfAnInstancesRecord"},
}
