// Package enforcer keeps the kernel's tables equal to what has been fed.
//
//	changes -> inbox -> loop -> kernel
//	           (model)    |
//	                      +-> outcomes
//
// Changes come in as values of package policy, and outcomes go out as values. It neither watches
// an API nor logs, counts or creates Events: package report does so, by the outcomes.
//
//	enforcer.go  Enforcer, and what others may call: Feed, Start, Sync
//	inbox.go     where changes come in: the model, and the mutex that guards it
//	waiters.go   who waits until something is in the kernel, or until a pod is known
//	view.go      what others may ask of the model
//	loop.go      one transaction after another; the list of tables; retry and backoff
//	table.go     a table and what is known of it in the kernel; the policies' table, shared
//	guard.go     the bridge's table, where podfence connects the pods
//	links.go     the pods' links, where another plugin connects the pods
//	allowed.go   which rules let connections pass, for whoever observes them
//	suppose.go   what would pass after some changes, for whoever asks
//	flows.go     established flows, judged anew after each commit
//	staged.go    what staged policies would do: a second model, loop and table
//	stagedflows.go  established flows that staged policies would cut
//	revoked.go   which of them are cut that were not cut before, and by whom
//	repairs.go   drift: what others do to the tables, and how soon that is repaired
//	refusals.go  policies that the kernel refuses are quarantined
//	search.go    finds them, by trials that the kernel undoes
//	outcome.go   what comes of it, as values
package enforcer
