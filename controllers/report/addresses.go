package report

import (
	"maps"
	"net/netip"
	"slices"
)

// refusedAddrs says if pods of other nodes seem to have addresses of this node or its ranges.
func (r *Reporter) refusedAddrs(refused []netip.Addr) {
	r.Metrics.refusedAddresses(len(refused))
	if len(refused) > 0 {
		warn(r.log, "Pods of other nodes show addresses of this node or its pod CIDRs, which do not count as theirs. If they are of its pod CIDRs, as the network plugin gives addresses out by other ranges, set --pod-cidrs ignored",
			"addresses", len(refused), "one", refused[0].String())
	}
}

// orphans says which addresses of containers are closed because their pod is not known, and
// which are open again. While a pod starts, its address is an orphan for a moment.
func (r *Reporter) orphans(changed map[netip.Addr]bool) {
	for _, addr := range slices.SortedFunc(maps.Keys(changed), netip.Addr.Compare) {
		if changed[addr] {
			r.log.V(1).Info("An address is closed, as its container's pod is not known", "address", addr.String())
		} else {
			r.log.V(1).Info("An address is closed no more", "address", addr.String())
		}
	}
}
