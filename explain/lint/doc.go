// Package lint finds what policies say and cannot mean: what the API server accepts, and what has no
// effect or another one than its author can want. It is pure: a cluster goes in, findings come out, a
// value that is printed as text or as JSON. It has no client, clock, file or kernel.
//
// Only what is nearly certain is a finding. A selector that means nobody may be ahead of its pods, so it
// is a Warning only if somebody else is probably meant: by labels that are a letter away, or in another
// namespace. In files, which may leave out half of a cluster, nothing else of that kind is found.
//
//	lint.go          Lint, of a whole cluster; OfSeen, of what an agent keeps of it
//	finding.go       Finding, its kinds, and how findings read
//	policies.go      both kinds of policies, in one form
//	selector.go      selectors of labels
//	world.go         whom a selector means, by the rarest of its labels
//	nearest.go       which label or name is probably meant by one that is wrong
//	selectors.go     selectors that mean nobody
//	ports.go         named ports that nobody has
//	blocks.go        excepts that leave nothing; blocks of pods' and Services' addresses
//	rules.go         rules without effect: by policyTypes, or behind other rules
//	serviceports.go  ports of Services where those of pods are meant
//	staged.go        policies that are not in force, and annotations that were to stage them
//	names.go         domain names: of Services, of anybody, and of pods that cannot ask for them
//	dns.go           pods that reach others, but not the cluster's DNS
package lint
