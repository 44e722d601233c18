package plugin

import (
	"os"

	current "github.com/containernetworking/cni/pkg/types/100"

	"github.com/podfence/podfence/cni/handshake"
)

// ReadPod is readPod.
var ReadPod = readPod

// ReadOwner reads a lease's file, as the container's ID and the interface.
func ReadOwner(dir *os.File, name string) (containerID, ifName string, err error) {
	owner, err := readOwner(dir, name)
	return owner.containerID, owner.ifName, err
}

// Chained is the request that a chained ADD makes of the result before it.
func Chained(result *current.Result) (handshake.Request, error) {
	return chainedRequest(result)
}
