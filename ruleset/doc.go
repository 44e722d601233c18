// Package ruleset says what podfence's nftables table must hold.
//
// It is pure: a policy.Intent goes in, a Table comes out, as values.
//
//	Build     the Table for an Intent, whole
//	Update    what a policy.Delta changes in a Table: a Plan, and the Table
//	          after it
//	Text      a Table, or a Plan, as nft reads it
//	Trace     the way of a packet through a Table: rules met, verdict
//
//	BuildGuard, UpdateGuard
//	          the same for the second table, of family bridge, where podfence
//	          connects the pods too
//
// Package ruleset/kernel carries Plans out.
package ruleset
