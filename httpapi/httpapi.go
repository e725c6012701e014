package httpapi

import (
	"crypto/x509"
	"log"
	"log/slog"
	"net/http"
	"net/netip"
	"time"

	"github.com/google/uuid"
	"github.com/gorilla/mux"
	"github.com/opticworks/devicecloud/account"
	"github.com/opticworks/devicecloud/dataplan"
	"github.com/opticworks/devicecloud/media"
	"github.com/opticworks/devicecloud/registry"
	"github.com/opticworks/devicecloud/rollout"
	"github.com/opticworks/devicecloud/webhook"
	"github.com/prometheus/client_golang/prometheus"
)

// Deps is what the face stands on. All but Ready and WebSocket are needed.
type Deps struct {
	Registry   *registry.Registry
	Accounts   *account.Service
	DataPlans  *dataplan.Service
	Media      *media.Service
	Ingestor   *media.Ingestor
	Rollouts   *rollout.Service
	Classifier *media.Classifier
	Webhooks   *webhook.Service
	WebSocket  http.Handler // MQTT over WebSocket, at /mqtt; nil: 404
	Ready      func() error // an error while the program starts or drains; nil: always ready
}

// Options configures the face. The zero value of each field is usable.
type Options struct {
	Logger         *slog.Logger          // default slog.Default()
	Registerer     prometheus.Registerer // nil: no metrics
	Now            func() time.Time      // default time.Now
	NewID          func() string         // request ids; default UUIDs of version 7
	Heartbeat      time.Duration         // of event streams; default 15 s
	Patience       time.Duration         // with a client that takes nothing of its event stream; default 10 s
	TrustedProxies []netip.Prefix        // whose X-Forwarded-For and X-Forwarded-Proto count
	AppLink        string                // URL that opens the app with a mailed link's token; default devicecloud://auth/magic
	DeviceCAs      *x509.CertPool        // that vouch for client certificates of devices; nil: only registered ones count
	Limits         Limits
}

func (o *Options) defaults() {
	if o.Logger == nil {
		o.Logger = slog.Default()
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.AppLink == "" {
		o.AppLink = "devicecloud://auth/magic"
	}
	if o.Heartbeat <= 0 {
		o.Heartbeat = 15 * time.Second
	}
	if o.Patience <= 0 {
		o.Patience = 10 * time.Second
	}
	if o.NewID == nil {
		o.NewID = func() string { return uuid.Must(uuid.NewV7()).String() }
	}
}

// api is the face. It is safe for concurrent use and starts no goroutines.
type api struct {
	Deps
	opts    Options
	log     *slog.Logger
	router  *mux.Router
	metrics *metrics
	limits  *limits
}

// New makes the handler of the API and registers its metrics, among them the
// gauges of the fleet.
func New(deps Deps, opts Options) http.Handler {
	opts.defaults()
	a := &api{
		Deps: deps, opts: opts, log: opts.Logger, router: mux.NewRouter().SkipClean(true),
		limits:  newLimits(opts.Limits, opts.Now),
		metrics: newMetrics(opts.Registerer, deps.Registry, opts.Logger, opts.Now),
	}
	a.mount()
	return a
}

const (
	headerTimeout = 5 * time.Second
	// readTimeout bounds a request with its body, so that nobody holds a goroutine
	// by sending a byte now and then; 10 MiB of CSV need 1.4 Mbit/s.
	readTimeout = 60 * time.Second
	// writeTimeout bounds an answer. It is set for each request, not in the server,
	// so that a stream or an upgraded connection can outlive it.
	writeTimeout   = 60 * time.Second
	idleTimeout    = 120 * time.Second
	maxHeaderBytes = 16 << 10
)

// Server makes the server for a handler of [New], with the timeouts that an open
// network demands: 5 s for the headers, 60 s for the whole request, 2 minutes
// idle, 16 KiB of headers. The caller sets Addr or a listener.
func Server(h http.Handler, logger *slog.Logger) *http.Server {
	return &http.Server{
		Handler: h, ReadHeaderTimeout: headerTimeout, ReadTimeout: readTimeout, IdleTimeout: idleTimeout,
		MaxHeaderBytes: maxHeaderBytes, ErrorLog: log.New(serverLog{logger}, "", 0),
	}
}

// serverLog writes what net/http has to say (failed TLS handshakes, mostly of
// scanners) at debug level.
type serverLog struct{ log *slog.Logger }

func (l serverLog) Write(line []byte) (int, error) {
	l.log.Debug("http server", "message", string(line))
	return len(line), nil
}
