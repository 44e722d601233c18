package controllers

import (
	"maps"
	"net/netip"
	"slices"
)

// sayRefused says if pods of other nodes seem to have addresses of this node or its ranges.
func (e *Enforcer) sayRefused() {
	e.mu.Lock()
	refused := e.model.Refused()
	e.mu.Unlock()
	e.metrics.refusedAddrs.Set(float64(len(refused)))
	if len(refused) > 0 {
		warn(e.log, "Pods of other nodes show addresses of this node or its pod CIDRs, which do not count as theirs. If they are of its pod CIDRs, as the network plugin gives addresses out by other ranges, set --pod-cidrs ignored",
			"addresses", len(refused), "one", refused[0].String())
	}
}

// sayOrphans says which addresses of containers are closed, as their pod is not known, and
// which are open again. While a pod starts, its address is one for a moment.
func (e *Enforcer) sayOrphans(changed map[netip.Addr]bool) {
	for _, addr := range slices.SortedFunc(maps.Keys(changed), netip.Addr.Compare) {
		if changed[addr] {
			e.log.V(1).Info("An address is closed, as its container's pod is not known", "address", addr.String())
		} else {
			e.log.V(1).Info("An address is closed no more", "address", addr.String())
		}
	}
}
