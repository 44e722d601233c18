//go:build assets

// Package assets pins what the envtest suites start: nothing imports it. The
// imports keep the two programs and their dependencies in go.mod and go.sum.
package assets

import (
	_ "go.etcd.io/etcd/server/v3"
	_ "k8s.io/kubernetes/cmd/kube-apiserver"
)
