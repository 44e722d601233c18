// Package e2e tests podfence on the cluster that `make cluster-up` has started,
// as a user's workload meets it: through kubelet, kube-proxy, Services and DNS,
// and while agents and nodes come and go. `make e2e` runs it; it needs root, to
// enter the pods' namespaces.
//
// One chapter is a node's life, each test in a file of its own. Pods run meanwhile, and
// must notice nothing (life_test.go has who they are, and what they would notice):
//
//	rollout        agents are replaced
//	upgrade        by those of another version, and back; make test-upgrade builds both (upgrade.sh)
//	slowimage      by an image that takes two minutes to come
//	crashloop      by agents that end as soon as they start
//	restart        a node loses its power
//	remade         all sandboxes are made anew
//	lostruntime    so are all containers, and containerd has forgotten the old ones
//	otherconflist  another network's configuration sorts before podfence's
//	staticpod      a pod that kubelet has from a file
//	flap           links, routes, neighbours and settings are taken away
//	modes          agents of another mode find pods that were connected by the one before
//	helm           the agents' DaemonSet comes to belong to a Helm release, and to kubectl again
//	otherplugin    podfence is removed, another plugin comes, and podfence on top of it
//
// Another is what agents announce of new pods:
//
//	firstpacket    the first packets of new pods reach whom policies let them reach on other
//	               nodes, and nobody else; sniffer sees what arrives, and firstpacket/ is the
//	               program that sends
//	announcements  who may say where pods are, lies, and what becomes of a pod while the API
//	               server takes no announcements
//	addcost        what a pod's start takes longer by it; only if -add-cost says how many pods
//
// A third is ClusterNetworkPolicies. Each of its tests installs their kind and removes it
// (clusterkind); border is pods on both sides of what policies close, and counts each packet
// that gets across:
//
//	clusterpolicies  what README says to do: both channels of the API, the samples, their status
//	kindgoes         the kind is deleted and installed again, and its definition replaced by a newer one
//	clusterflows     connections are cut, and nothing opens while agents are killed and replaced
//	clusterfirst     the first packets of new pods, in namespaces that are as new
//	clustermany      a thousand policies of one priority
//	clustermistake   a policy denies everything of kube-system, and is taken back
//
// One is the Helm chart (chart), installed in place of config/default, and its helm test in each mode, which must
// fail where nothing is enforced.
//
// One is kubectl podfence (plugin), as it is built and as kubectl calls it, and one the page that it serves (ui). And one is who sees what is denied:
//
//	observe  kubectl podfence observe, and Hubble's own CLI at an agent
//	relay    Hubble's own relay over the agents of both nodes, deployed as docs/HUBBLE.md says; relaycerts
//	         makes the certificates
//
// And generate: the policies that kubectl podfence generate writes of what it observes, in force; and adoption: what
// docs/ADOPTION.md says to do, from no policy to a default deny.
//
// Where podfence is installed anew, overlay has the image that the cluster has in place of a release's.
//
// And walk: the targets of the Makefile that kubebuilder's users know, from a fresh clone (test/walk).
//
// And one is who comes from another program: the commands of docs/migrations, each on a cluster of that program's,
// which only -migration has (make test-migrations); migration has the pages and the traffic, migration_other puts
// the other programs on the nodes:
//
//	migration_kuberouter  kube-router connects and fences, and podfence takes over the one, then the other
//	migration_flannel     flannel connects, and podfence comes behind its plugin
package e2e
