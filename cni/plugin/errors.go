package plugin

import (
	"errors"
	"fmt"

	"github.com/containernetworking/cni/pkg/types"

	"github.com/podfence/podfence/cni/handshake"
)

// Codes of this plugin's own: the CNI specification leaves those from 100 to
// plugins.
const (
	// CodeExhausted says that a pod CIDR has no address left.
	CodeExhausted uint = 100
	// CodeDrift says that CHECK has found that something that ADD made is gone, or
	// has changed.
	CodeDrift uint = 101
)

// invalidConfig is the specification's code 7.
func invalidConfig(err error) error {
	return types.NewError(types.ErrInvalidNetworkConfig, "invalid network configuration: "+err.Error(), "")
}

// invalidEnvironment is code 4; the specification wants the variable named.
func invalidEnvironment(variable string, err error) error {
	return types.NewError(types.ErrInvalidEnvironmentVariables, fmt.Sprintf("invalid %s: %v", variable, err), "")
}

// agentError is code 11, try again later: whatever keeps the agent from doing
// what it is asked, it is not the pod's fault.
func agentError(err error) error {
	if errors.Is(err, handshake.ErrNoAnswer) || errors.Is(err, handshake.ErrRefused) {
		return types.NewError(types.ErrTryAgainLater, err.Error(), "")
	}
	return err
}

// drift is the error for a difference that CHECK finds.
func drift(format string, args ...any) error {
	return types.NewError(CodeDrift, fmt.Sprintf(format, args...), "")
}
