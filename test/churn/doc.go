// Package churn changes a cluster at random: a real API server in which pods, policies,
// namespaces and nodes come, change and go, a lab's node with a host for every
// address that pods ever have, and random packets, each with the verdict that
// policy.Judge gives on the objects as they were written.
package churn
