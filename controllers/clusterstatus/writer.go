package clusterstatus

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
	"time"

	"github.com/go-logr/logr"
	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/apimachinery/pkg/util/uuid"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/leaderelection/resourcelock"
	"sigs.k8s.io/controller-runtime/pkg/manager"
	metricsserver "sigs.k8s.io/controller-runtime/pkg/metrics/server"
)

// LeaseName is the name of the Lease. It does not depend on how podfence is installed, as there is one
// podfence in a cluster.
const LeaseName = "status-writer.podfence.io"

const (
	// Whoever has the Lease renews it every retryPeriod, and gives up writing if that has failed for
	// renewDeadline. Another one takes it over when it was not renewed for leaseDuration. These are
	// twice controller-runtime's own, because nobody waits for a status, and each renewal is a write in
	// etcd.
	leaseDuration, renewDeadline, retryPeriod = 30 * time.Second, 20 * time.Second, 4 * time.Second
	// rate and burst are how many requests it may make for policies and their status: per second, and
	// at once.
	rate, burst = 20, 40
	// defaultPoll is after how long it looks, on average, which version of the kind there is.
	defaultPoll = 10 * time.Second
)

// Options are what a Writer is told.
type Options struct {
	// API is the API server to watch and write to.
	API *rest.Config
	// Namespace is the one of the Lease.
	Namespace string
	// MetricsAddress and HealthAddress are where to serve; "0": nowhere.
	MetricsAddress, HealthAddress string
	// Poll is after how long to look, on average, which version of the kind there is; 0: 10 s.
	Poll time.Duration
	// Resync is after how long to look at all policies again, though nothing has changed; nil: the
	// library's ten hours.
	Resync *time.Duration
	Log    logr.Logger
}

// Writer writes the status of all ClusterNetworkPolicies as long as it has the Lease.
type Writer struct {
	manager   manager.Manager
	kind      *kind
	api       *rest.Config
	transport *http.Client
	resync    *time.Duration
	lease     string
	health    health
	log       logr.Logger
}

// New returns a writer. Start runs it.
func New(o Options) (*Writer, error) {
	if o.Namespace == "" {
		return nil, errors.New("no namespace for the Lease by which one of several programs writes")
	}
	api := rest.AddUserAgent(o.API, "status-writer")
	api.QPS, api.Burst, api.RateLimiter = rate, burst, nil
	transport, err := rest.HTTPClientFor(api)
	if err != nil {
		return nil, fmt.Errorf("setting up the connection to the API server: %w", err)
	}
	w := &Writer{api: api, transport: transport, resync: o.Resync, lease: o.Namespace + "/" + LeaseName, log: o.Log}
	if w.kind, err = newKind(api, transport, cmp.Or(o.Poll, defaultPoll), w.health.asked, o.Log); err != nil {
		return nil, err
	}
	if w.manager, err = newManager(o); err != nil {
		return nil, err
	}
	err = w.manager.Add(manager.RunnableFunc(func(ctx context.Context) error { // runs with the Lease only
		w.kind.follow(ctx, w.watch)
		return nil
	}))
	if o.HealthAddress != "0" && o.HealthAddress != "" {
		err = errors.Join(err, w.manager.Add(w.health.server(o.HealthAddress)))
	}
	return w, err
}

// newManager returns a manager that competes for the Lease. It knows no kinds, because the cache of
// policies comes and goes with their kind (see watch).
func newManager(o Options) (manager.Manager, error) {
	host, err := os.Hostname()
	if err != nil {
		return nil, fmt.Errorf("asking for the host's name, by which the Lease says who writes: %w", err)
	}
	// Without a recorder: the Lease says who has it, so that no permission for Events is needed.
	own := resourcelock.ResourceLockConfig{Identity: host + "_" + string(uuid.NewUUID())}
	lock, err := resourcelock.NewFromKubeconfig(resourcelock.LeasesResourceLock, o.Namespace, LeaseName, own, o.API, renewDeadline)
	if err != nil {
		return nil, fmt.Errorf("setting up the Lease %s/%s: %w", o.Namespace, LeaseName, err)
	}
	mgr, err := manager.New(o.API, manager.Options{
		Logger:                 o.Log.V(1), // what starts and stops in it is for developers
		MapperProvider:         func(*rest.Config, *http.Client) (meta.RESTMapper, error) { return meta.NewDefaultRESTMapper(nil), nil },
		Metrics:                metricsserver.Options{BindAddress: o.MetricsAddress},
		HealthProbeBindAddress: "0", // health.server does
		LeaderElection:         true, LeaderElectionResourceLockInterface: lock, LeaderElectionReleaseOnCancel: true,
		LeaderElectionID: LeaseName, // of a metric
		LeaseDuration:    new(leaseDuration), RenewDeadline: new(renewDeadline), RetryPeriod: new(retryPeriod),
	})
	if err != nil {
		return nil, fmt.Errorf("setting up the manager: %w", err)
	}
	return mgr, nil
}

// Start competes for the Lease, and writes while it has it, until ctx is done. If it loses the Lease
// it returns an error, because the manager cannot be started again: whoever runs the program starts
// another one.
func (w *Writer) Start(ctx context.Context) error {
	if err := w.manager.Start(ctx); err != nil {
		return fmt.Errorf("writing the status of ClusterNetworkPolicies by the Lease %s: %w", w.lease, err)
	}
	return nil
}
