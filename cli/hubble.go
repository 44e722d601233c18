package cli

import (
	"fmt"

	"github.com/spf13/pflag"

	"github.com/podfence/podfence/agent"
	"github.com/podfence/podfence/controllers/hubble"
)

// hubbleFlags are the flags about who may read by Hubble's API what is kept of denied packets and connections.
func hubbleFlags(f *pflag.FlagSet, o *agent.Options) {
	f.StringVar(&o.Hubble.Address, "hubble-address", "127.0.0.1:4244", "where to serve Hubble's API, for the hubble CLI, hubble-relay and Hubble's UI; other than a loopback address with TLS only; 0: nowhere")
	f.StringVar(&o.Hubble.TLS.Cert, "hubble-tls-cert-file", "", "the certificate that Hubble's API is served with, in PEM; read again when it changes, as are the other two")
	f.StringVar(&o.Hubble.TLS.Key, "hubble-tls-key-file", "", "the key of that certificate")
	f.StringVar(&o.Hubble.TLS.ClientCA, "hubble-tls-client-ca-file", "", "the CA that has issued the certificates of those who may read by Hubble's API")
}

// checkHubble refuses values of those flags.
func checkHubble(o *agent.Options) error {
	if err := hubble.CheckAddress(o.Hubble.Address, o.Hubble.TLS); err != nil {
		return fmt.Errorf("--hubble-address (with --hubble-tls-cert-file, --hubble-tls-key-file, --hubble-tls-client-ca-file): %w", err)
	}
	return nil
}
