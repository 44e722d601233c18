package controllers

import "time"

// LookEvery has agents look for ClusterNetworkPolicies as often. It must be called before any starts.
func LookEvery(d time.Duration) { lookEvery = d }
