package main

import "slices"

// bugs returns every bug that is planted in the code, room by room in the
// order in which the data walks. The tables lie in the files that have the
// rooms' names: what would be wrong, where, the text that stands there, the
// text in its place, and who notices.
func bugs() []bug {
	return slices.Concat(vocabularyBugs, samplerBugs, meterBugs, spoolBugs, agentBugs, queueBugs, ingestBugs, ledgerBugs, ownershipBugs, monthBugs, accessBugs, usageBugs, grantBugs, registeredBugs, issuerBugs, hostBugs, abuseBugs, directoryBugs, documentBugs, exportBugs, notifyBugs)
}
