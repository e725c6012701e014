package fleet

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/csv"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"sync"
	"time"
)

// API is the registry as an administrator sees it: where the fleet enrols, and what its own view is compared with.
type API struct {
	base     string
	email    string
	password string
	client   *http.Client

	mu    sync.Mutex
	token string
}

const (
	importChunk = 5_000 // lines of CSV a request; well below 10 MiB, and the progress bar moves
	listPage    = 200
	answerLimit = 64 << 20
	tooManyWait = 30 * time.Second // the longest Retry-After that is obeyed
	tooMany     = 20               // how often it is obeyed
	readTimeout = 20 * time.Second // for one try to read something
	readTries   = 5                // a cloud, or a simulator, that is busy with a storm may miss one
)

// NewAPI returns a client for the API at base; roots may be nil for the system's.
func NewAPI(base, email, password string, roots *x509.CertPool) *API {
	transport := &http.Transport{
		TLSClientConfig: &tls.Config{RootCAs: roots, MinVersion: tls.VersionTLS12},
		IdleConnTimeout: time.Minute,
	}
	return &API{
		base: strings.TrimRight(base, "/"), email: email, password: password,
		client: &http.Client{Transport: transport, Timeout: 60 * time.Second},
	}
}

// Close drops idle connections.
func (a *API) Close() { a.client.CloseIdleConnections() }

// statusError is an answer that is not 2xx.
type statusError struct {
	status  int
	code    string
	message string
}

func (e *statusError) Error() string {
	return fmt.Sprintf("HTTP %d %s %s", e.status, e.code, e.message)
}

// do sends one authenticated request and decodes the answer. It logs in when there is no token or it is refused,
// waits when it is told to come later, and repeats a GET that got no answer, or one that says "not now", a few times.
func (a *API) do(ctx context.Context, method, path, contentType string, body []byte, answer any) error {
	var err error
	tries := readTries
	if method != http.MethodGet {
		tries = 1
	}
	for range tooMany {
		token := a.currentToken()
		if token == "" {
			if token, err = a.login(ctx); err != nil {
				return err
			}
		}
		var wait time.Duration
		wait, err = a.once(ctx, method, path, contentType, token, body, answer)
		var refused *statusError
		switch {
		case !errors.As(err, &refused) || refused.status >= http.StatusBadGateway && refused.status <= http.StatusGatewayTimeout:
			if tries--; err == nil || tries == 0 || !pause(ctx, time.Second/2+rand.N(time.Second)) {
				return wrap(err, method, path)
			}
		case refused.status == http.StatusUnauthorized:
			// Expired; a fresh token that is refused too ends in login's own error or in tooMany.
			a.setToken("")
		case refused.status == http.StatusTooManyRequests:
			if !pause(ctx, min(max(wait, 100*time.Millisecond), tooManyWait)) {
				return ctx.Err()
			}
		default:
			return wrap(err, method, path)
		}
	}
	return wrap(err, method, path)
}

func wrap(err error, method, path string) error {
	if err == nil {
		return nil
	}
	return fmt.Errorf("%s %s: %w", method, path, err)
}

func (a *API) once(ctx context.Context, method, path, contentType, token string, body []byte, answer any) (time.Duration, error) {
	if method == http.MethodGet {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, readTimeout)
		defer cancel()
	}
	request, err := http.NewRequestWithContext(ctx, method, a.base+path, bytes.NewReader(body))
	if err != nil {
		return 0, err
	}
	if contentType != "" {
		request.Header.Set("Content-Type", contentType)
	}
	if token != "" {
		request.Header.Set("Authorization", "Bearer "+token)
	}
	response, err := a.client.Do(request)
	if err != nil {
		return 0, err
	}
	defer response.Body.Close()
	raw, err := io.ReadAll(io.LimitReader(response.Body, answerLimit))
	if err != nil {
		return 0, err
	}
	if response.StatusCode/100 != 2 {
		problem := struct{ Error, Message string }{}
		// A proxy's answer need not be JSON; the status says enough then.
		_ = json.Unmarshal(raw, &problem)
		seconds, _ := strconv.Atoi(response.Header.Get("Retry-After"))
		return time.Duration(seconds) * time.Second, &statusError{response.StatusCode, problem.Error, problem.Message}
	}
	return 0, json.Unmarshal(raw, answer)
}

func (a *API) currentToken() string {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.token
}

func (a *API) setToken(token string) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.token = token
}

func (a *API) login(ctx context.Context) (string, error) {
	body, err := json.Marshal(map[string]string{"email": a.email, "password": a.password})
	if err != nil {
		return "", err
	}
	answer := struct {
		AccessToken string `json:"access_token"`
	}{}
	if _, err := a.once(ctx, http.MethodPost, "/admin/auth/login", "application/json", "", body, &answer); err != nil {
		// %w would let a 401 of the login look like an expired token and be retried.
		return "", fmt.Errorf("log in as %s: %v", a.email, err)
	}
	if answer.AccessToken == "" {
		return "", errors.New("the login answer has no access_token")
	}
	a.setToken(answer.AccessToken)
	return answer.AccessToken, nil
}

// ImportResult is what an import changed.
type ImportResult struct {
	Created int
	Already int
	Failed  int
	Sample  string // the first failure's text
}

type importAnswer struct {
	Created int `json:"created"`
	Failed  int `json:"failed"`
	Lines   []struct {
		Line    int    `json:"line"`
		Status  string `json:"status"`
		Error   string `json:"error"`
		Message string `json:"message"`
	} `json:"lines"`
}

// Enrol registers the identities; those that are registered already are fine. progress gets the number done.
func (a *API) Enrol(ctx context.Context, ids []Identity, progress func(done int)) (ImportResult, error) {
	header := []string{"mac_address", "device_secret_hash", "claim_secret_hash"}
	return a.importCSV(ctx, "/admin/devices/import?partial=true", header, len(ids), progress, func(i int) []string {
		return []string{ids[i].MAC, ids[i].SecretHash(), ids[i].ClaimSecretHash()}
	})
}

// Order records that owner bought the devices, so that they become his when they provision.
func (a *API) Order(ctx context.Context, ids []Identity, owner string, shipped time.Time) (ImportResult, error) {
	header := []string{"order_id", "user_email", "device_mac", "shipped_at"}
	return a.importCSV(ctx, "/admin/orders/import?partial=true", header, len(ids), func(int) {}, func(i int) []string {
		// The order is named after the device, so that a second run repeats it instead of adding one.
		return []string{"SIM-" + ids[i].DeviceID[:16], owner, ids[i].MAC, timestamp(shipped)}
	})
}

func (a *API) importCSV(ctx context.Context, path string, header []string, n int, progress func(int), line func(i int) []string) (ImportResult, error) {
	var result ImportResult
	for from := 0; from < n; from += importChunk {
		to := min(from+importChunk, n)
		var body bytes.Buffer
		w := csv.NewWriter(&body)
		// A bytes.Buffer does not fail; w.Error below says so.
		_ = w.Write(header)
		for i := from; i < to; i++ {
			_ = w.Write(line(i))
		}
		w.Flush()
		if err := w.Error(); err != nil {
			return result, err
		}
		var answer importAnswer
		if err := a.do(ctx, http.MethodPost, path, "text/csv", body.Bytes(), &answer); err != nil {
			return result, err
		}
		result.add(answer)
		progress(to)
	}
	return result, nil
}

func (r *ImportResult) add(answer importAnswer) {
	r.Created += answer.Created
	for _, l := range answer.Lines {
		switch {
		case strings.HasPrefix(l.Status, "already"), strings.HasPrefix(l.Error, "already"):
			r.Already++
		case l.Status == "error":
			r.Failed++
			if r.Sample == "" {
				r.Sample = fmt.Sprintf("line %d: %s %s", l.Line, l.Error, l.Message)
			}
		}
	}
}

// RegistryDevice is what the registry says of a device.
type RegistryDevice struct {
	DeviceID      string `json:"device_id"`
	Online        bool   `json:"online"`
	Status        string `json:"status"`
	UptimeSec     *int64 `json:"uptime_sec"`
	ProvisionedAt any    `json:"provisioned_at"` // nil when it never was
}

// Device reads one device. Its answer has the state in full, which a list need not repeat.
func (a *API) Device(ctx context.Context, id string) (RegistryDevice, error) {
	var device RegistryDevice
	err := a.do(ctx, http.MethodGet, "/admin/devices/"+url.PathEscape(id), "", nil, &device)
	return device, err
}

// Devices reads the whole registry.
func (a *API) Devices(ctx context.Context) (map[string]RegistryDevice, error) {
	devices := map[string]RegistryDevice{}
	cursor := ""
	for {
		var page struct {
			Devices    []RegistryDevice `json:"devices"`
			NextCursor string           `json:"next_cursor"`
		}
		path := fmt.Sprintf("/admin/devices?limit=%d", listPage)
		if cursor != "" {
			path += "&cursor=" + url.QueryEscape(cursor)
		}
		if err := a.do(ctx, http.MethodGet, path, "", nil, &page); err != nil {
			return nil, err
		}
		before := len(devices)
		for _, d := range page.Devices {
			devices[d.DeviceID] = d
		}
		if page.NextCursor == "" {
			return devices, nil
		}
		if len(devices) == before {
			return nil, fmt.Errorf("the registry's list does not advance at cursor %q", page.NextCursor)
		}
		cursor = page.NextCursor
	}
}
