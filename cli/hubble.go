package cli

import (
	"fmt"

	"github.com/spf13/pflag"

	"github.com/podfence/podfence/agent"
	"github.com/podfence/podfence/controllers/hubble"
)

// mostObserved is the most flows that an agent may be told to keep: some 1.3 GB.
const mostObserved = 1_000_000

// observationFlags are the flags about what is kept of denied packets and connections, and who may read it
// by Hubble's API.
func observationFlags(f *pflag.FlagSet, o *agent.Options) {
	f.IntVar(&o.ObserveFlows, "observe-flows", 4096, "how many of the last denied packets and connections are kept for those who observe; each takes some 1.3 kB")
	f.StringVar(&o.Hubble.Address, "hubble-address", "127.0.0.1:4244", "where to serve Hubble's API, for the hubble CLI, hubble-relay and Hubble's UI; other than a loopback address with TLS only; 0: nowhere")
	f.StringVar(&o.Hubble.TLS.Cert, "hubble-tls-cert-file", "", "the certificate that Hubble's API is served with, in PEM; read again when it changes, as are the other two")
	f.StringVar(&o.Hubble.TLS.Key, "hubble-tls-key-file", "", "the key of that certificate")
	f.StringVar(&o.Hubble.TLS.ClientCA, "hubble-tls-client-ca-file", "", "the CA that has issued the certificates of those who may read by Hubble's API")
}

// checkObservation refuses values of those flags.
func checkObservation(o *agent.Options) error {
	if o.ObserveFlows < 1 || o.ObserveFlows > mostObserved {
		return fmt.Errorf("--observe-flows is %d: it must be from 1 to %d", o.ObserveFlows, mostObserved)
	}
	if err := hubble.CheckAddress(o.Hubble.Address, o.Hubble.TLS); err != nil {
		return fmt.Errorf("--hubble-address (with --hubble-tls-cert-file, --hubble-tls-key-file, --hubble-tls-client-ca-file): %w", err)
	}
	return nil
}
