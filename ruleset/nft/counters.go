package nft

// Counters are what the rules of a table have counted, all read at one time.
type Counters struct {
	// Table is the kernel's number of the table: a table that is made anew has another. It is 0 if there is
	// no table.
	Table uint64
	// Chains are the rules of each chain that has any, in order.
	Chains map[string][]Counted
}

// Counted is what a rule has counted since it was made.
type Counted struct {
	// Handle is the kernel's number of the rule: one that is made anew in the same table has another.
	Handle uint64
	// Counter: the rule counts. Otherwise Packets is 0.
	Counter bool
	Packets uint64
	// Comment is the rule's, if it was asked for.
	Comment string
}
