package aws

import (
	"crypto/rand"
	"encoding/base32"
	"encoding/json"
	"errors"
	"net"
	"net/http"
	"strings"
	"sync"
	"time"
)

// Options configures a Server. The zero value of each field is usable.
type Options struct {
	Region  string           // default us-east-1
	Account string           // twelve digits; default 123456789012
	Now     func() time.Time // default time.Now
	// Everything makes a stream or channel when it is first named, for demonstrations.
	Everything bool
}

// Server is the stand-in. It is safe for concurrent use.
type Server struct {
	opts Options
	mux  *http.ServeMux
	http *http.Server
	base string // http://host:port, once it listens

	// AccessKeyID and SecretAccessKey are the keys of the account's own user, who may do
	// everything.
	AccessKeyID, SecretAccessKey string

	mu       sync.Mutex
	callers  map[string]caller // by access key id
	roles    map[string]Role   // by ARN
	streams  map[string]string // ARN by name
	channels map[string]string // ARN by name
	players  map[string]player // by session token of a playback
	faults   map[string]Fault  // by operation
	calls    map[string]int    // by operation
	gates    map[string]<-chan struct{}
	assumed  []Assumed
	sockets  map[*socket]struct{}
	sight    Sight    // what models answer
	shown    []byte   // the last picture that one was shown
	given    []string // secrets that were given beside those of callers and players
}

// caller is who signed a request.
type caller struct {
	secret, token string
	expires       time.Time
	role          Role
	session       *policy // nil: none
	name          string  // of the role session
	user          bool    // the account's own user
	service       string  // that the request was signed for
}

// Role is a role that can be assumed.
type Role struct {
	ARN            string
	Policy         string        // what it allows; "": everything
	MaxSession     time.Duration // default 1 h
	SourceIdentity bool          // its trust policy allows sts:SetSourceIdentity
}

// Assumed is one AssumeRole that was granted.
type Assumed struct {
	RoleARN, SessionName, SourceIdentity, Policy string
	Duration                                     time.Duration
}

// Fault makes an operation fail.
type Fault struct {
	Status  int    // of the answer; 0: the connection is closed without one
	Code    string // the exception
	Message string
	Times   int // how often; 0: until it is taken back
}

// New makes a server; [Server.Start] makes it listen.
func New(opts Options) *Server {
	if opts.Region == "" {
		opts.Region = "us-east-1"
	}
	if opts.Account == "" {
		opts.Account = "123456789012"
	}
	if opts.Now == nil {
		opts.Now = time.Now
	}
	s := &Server{
		opts: opts, mux: http.NewServeMux(), AccessKeyID: keyID("AKIA"), SecretAccessKey: randomText(40),
		callers: map[string]caller{}, roles: map[string]Role{}, streams: map[string]string{}, channels: map[string]string{},
		players: map[string]player{}, faults: map[string]Fault{}, calls: map[string]int{}, gates: map[string]<-chan struct{}{}, sockets: map[*socket]struct{}{},
	}
	s.callers[s.AccessKeyID] = caller{secret: s.SecretAccessKey, user: true}
	s.routes()
	s.bedrock()
	return s
}

// Borrow makes temporary credentials of the account's own user, as the environment of a
// machine at AWS holds them. They last until the server ends.
func (s *Server) Borrow() (accessKeyID, secretAccessKey, sessionToken string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	who := caller{secret: randomText(40), token: strings.ToLower(randomText(600)), user: true}
	id := keyID("ASIA")
	s.callers[id] = who
	return id, who.secret, who.token
}

// Issued is every secret that the server has: keys and session tokens of callers, tokens
// of players, of identities and of TURN servers.
func (s *Server) Issued() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	all := append([]string(nil), s.given...)
	for _, c := range s.callers {
		all = append(all, c.secret)
		if c.token != "" {
			all = append(all, c.token)
		}
	}
	for token := range s.players {
		all = append(all, token)
	}
	return all
}

// give remembers a secret that is given, and is that secret.
func (s *Server) give(secret string) string {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.given = append(s.given, secret)
	return secret
}

// Start makes the server listen on a loopback address, 127.0.0.1:0 as a rule.
func (s *Server) Start(address string) error {
	l, err := net.Listen("tcp", address)
	if err != nil {
		return err
	}
	s.base = "http://" + l.Addr().String()
	s.http = &http.Server{Handler: s, ReadHeaderTimeout: 5 * time.Second}
	go func() { _ = s.http.Serve(l) }() // ends with Close, which says so
	return nil
}

// Close ends the server and its connections.
func (s *Server) Close() error {
	if s.http == nil {
		return nil
	}
	s.mu.Lock()
	for sock := range s.sockets {
		_ = sock.conn.Close()
	}
	s.mu.Unlock()
	return s.http.Close()
}

// URL is where every service answers: for AWS_ENDPOINT_URL.
func (s *Server) URL() string { return s.base }

// Region is the region that requests must be signed for.
func (s *Server) Region() string { return s.opts.Region }

// ServeHTTP implements http.Handler.
func (s *Server) ServeHTTP(w http.ResponseWriter, r *http.Request) { s.mux.ServeHTTP(w, r) }

// AddRole makes a role that can be assumed, and returns its ARN.
func (s *Server) AddRole(name string, r Role) string {
	s.mu.Lock()
	defer s.mu.Unlock()
	r.ARN = "arn:aws:iam::" + s.opts.Account + ":role/" + name
	if r.MaxSession == 0 {
		r.MaxSession = time.Hour
	}
	s.roles[r.ARN] = r
	return r.ARN
}

// AddStream makes a stream, and returns its ARN.
func (s *Server) AddStream(name string) string { return s.add(s.streams, "stream", name) }

// AddChannel makes a signalling channel, and returns its ARN.
func (s *Server) AddChannel(name string) string { return s.add(s.channels, "channel", name) }

func (s *Server) add(to map[string]string, kind, name string) string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.put(to, kind, name)
}

// put is add with mu held.
func (s *Server) put(to map[string]string, kind, name string) string {
	arn := "arn:aws:kinesisvideo:" + s.opts.Region + ":" + s.opts.Account + ":" + kind + "/" + name + "/" + millis(s.opts.Now())
	to[name] = arn
	return arn
}

// Fail makes an operation (its name at AWS: GetClip) fail.
func (s *Server) Fail(operation string, f Fault) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.faults[operation] = f
}

// Slow makes an operation stop after the first bytes of its answer until the gate is
// closed; only GetClip has a second.
func (s *Server) Slow(operation string, gate <-chan struct{}) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.gates[operation] = gate
}

// Heal takes every fault back.
func (s *Server) Heal() {
	s.mu.Lock()
	defer s.mu.Unlock()
	clear(s.faults)
}

// Calls is how often an operation was asked for; "" is all of them.
func (s *Server) Calls(operation string) (n int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if operation != "" {
		return s.calls[operation]
	}
	for _, c := range s.calls {
		n += c
	}
	return n
}

// Assumed lists the AssumeRoles that were granted, in order.
func (s *Server) Assumed() []Assumed {
	s.mu.Lock()
	defer s.mu.Unlock()
	return append([]Assumed(nil), s.assumed...)
}

func (s *Server) callerByKey(id string) (caller, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	c, ok := s.callers[id]
	return c, ok
}

// fault counts a call of an operation, and is how it is to fail, if it is.
func (s *Server) fault(operation string) (Fault, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.calls[operation]++
	f, ok := s.faults[operation]
	if ok && f.Times > 0 {
		if f.Times--; f.Times == 0 {
			delete(s.faults, operation)
		} else {
			s.faults[operation] = f
		}
	}
	return f, ok
}

// call is one authenticated call of an operation.
type call struct {
	s      *Server
	caller caller
	w      http.ResponseWriter
	r      *http.Request
	body   []byte
}

// operation is one operation: who may call it is judged before it is served.
type operation struct {
	name    string // at AWS
	service string // that it must be signed for
	// resource is what it is about, from its body; nil: nothing, everybody may.
	resource func(c *call) (arn string, err error)
	action   string // "": service:name
	serve    func(c *call) error
}

// handle mounts an operation.
func (s *Server) handle(pattern string, op operation) {
	s.mux.HandleFunc(pattern, func(w http.ResponseWriter, r *http.Request) { s.run(w, r, op) })
}

// run authenticates, authorises and serves a call.
func (s *Server) run(w http.ResponseWriter, r *http.Request, op operation) {
	body, err := readBody(w, r)
	if err != nil {
		return
	}
	c := &call{s: s, w: w, r: r, body: body}
	if f, ok := s.fault(op.name); ok {
		if f.Status == 0 {
			panic(http.ErrAbortHandler)
		}
		c.fail(op, &problem{f.Status, f.Code, f.Message})
		return
	}
	if c.caller, err = s.authenticate(r, body); err == nil {
		err = c.authorise(op)
	}
	if err == nil {
		err = op.serve(c)
	}
	if err != nil {
		c.fail(op, err)
	}
}

// authorise judges whether the caller may do this.
func (c *call) authorise(op operation) error {
	if c.caller.service != op.service {
		return denied("InvalidSignatureException", "Credential should be scoped to correct service: "+op.service+".")
	}
	action := op.action
	if action == "" {
		action = op.service + ":" + op.name
	}
	resource := "*"
	if op.resource != nil {
		var err error
		if resource, err = op.resource(c); err != nil {
			return err
		}
	}
	return c.caller.may(action, resource)
}

// may judges an action on a resource: what the role allows and the session's policy too.
func (c caller) may(action, resource string) error {
	allowed := c.user
	if !c.user {
		allowed = true
		if c.role.Policy != "" {
			p, err := parsePolicy(c.role.Policy)
			allowed = err == nil && p.allows(action, resource)
		}
		if c.session != nil {
			allowed = allowed && c.session.allows(action, resource)
		}
	}
	if !allowed {
		return denied("AccessDeniedException", "User: "+c.name+" is not authorized to perform: "+action+" on resource: "+resource)
	}
	return nil
}

// decode reads the body of a call of the JSON protocols.
func (c *call) decode(v any) error {
	if err := json.Unmarshal(c.body, v); err != nil {
		return &problem{http.StatusBadRequest, "SerializationException", "The body is not JSON."}
	}
	return nil
}

// reply answers in the JSON protocols.
func (c *call) reply(v any) error {
	c.w.Header().Set("Content-Type", "application/json")
	return json.NewEncoder(c.w).Encode(v)
}

// fail answers with an error in the protocol of the operation.
func (c *call) fail(op operation, err error) {
	var p *problem
	if !errors.As(err, &p) {
		p = &problem{http.StatusInternalServerError, "InternalFailure", "The stand-in is broken."}
	}
	if op.service == serviceSTS {
		failXML(c.w, p)
		return
	}
	h := c.w.Header()
	h.Set("Content-Type", "application/json")
	h.Set("X-Amzn-ErrorType", p.code)
	c.w.WriteHeader(p.status)
	_ = json.NewEncoder(c.w).Encode(map[string]string{"__type": p.code, "message": p.message}) // the client has gone
}

// keyID is an access key id, with the prefix that says of what kind.
func keyID(prefix string) string { return prefix + strings.ToUpper(randomText(16)) }

// randomText is n random letters and digits.
func randomText(n int) string {
	b := make([]byte, n)
	_, _ = rand.Read(b) // never fails, see its documentation
	return base32.StdEncoding.EncodeToString(b)[:n]
}
