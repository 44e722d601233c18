//go:build assets

// Package coredns pins the cluster DNS of test/cluster; ../build.sh builds it.
package coredns

import _ "github.com/coredns/coredns"
