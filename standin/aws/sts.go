package aws

import (
	"encoding/xml"
	"net/http"
	"net/url"
	"regexp"
	"strconv"
	"strings"
	"time"
)

const (
	serviceSTS   = "sts"
	serviceVideo = "kinesisvideo"
)

// validSessionName is the form of a role session's name and of a source identity. [AWS,
// STS API reference, AssumeRole]
var validSessionName = regexp.MustCompile(`^[\w+=,.@-]{2,64}$`)

// query serves the operations that are posted to the root: those of STS by a form, those
// of Cognito by a header.
func (s *Server) query(w http.ResponseWriter, r *http.Request) {
	if target := r.Header.Get("X-Amz-Target"); target != "" {
		s.cognito(w, r, target)
		return
	}
	s.run(w, r, operation{name: "AssumeRole", service: serviceSTS, serve: assumeRole, resource: func(c *call) (string, error) {
		form, err := url.ParseQuery(string(c.body))
		if err != nil || form.Get("Action") != "AssumeRole" {
			return "", &problem{http.StatusBadRequest, "InvalidAction", "Only AssumeRole is served."}
		}
		return form.Get("RoleArn"), nil
	}})
}

type assumeRoleResponse struct {
	XMLName xml.Name `xml:"https://sts.amazonaws.com/doc/2011-06-15/ AssumeRoleResponse"`
	Result  struct {
		SourceIdentity  string `xml:",omitempty"`
		AssumedRoleUser struct {
			Arn           string
			AssumedRoleID string `xml:"AssumedRoleId"`
		}
		Credentials struct {
			AccessKeyID     string `xml:"AccessKeyId"`
			SecretAccessKey string
			SessionToken    string
			Expiration      string
		}
		PackedPolicySize int
	} `xml:"AssumeRoleResult"`
	RequestID string `xml:"ResponseMetadata>RequestId"`
}

// assumeRole gives temporary credentials.
func assumeRole(c *call) error {
	form, err := url.ParseQuery(string(c.body))
	if err != nil {
		return err
	}
	invalid := func(message string) error { return &problem{http.StatusBadRequest, "ValidationError", message} }
	s, name := c.s, form.Get("RoleSessionName")
	if !validSessionName.MatchString(name) {
		return invalid("RoleSessionName is not valid.")
	}
	life := time.Hour
	if text := form.Get("DurationSeconds"); text != "" {
		n, err := strconv.Atoi(text)
		if err != nil || n < 900 {
			return invalid("DurationSeconds must be at least 900.")
		}
		life = time.Duration(n) * time.Second
	}
	s.mu.Lock()
	role, ok := s.roles[form.Get("RoleArn")]
	s.mu.Unlock()
	identity := form.Get("SourceIdentity")
	if !ok || identity != "" && !role.SourceIdentity {
		return denied("AccessDenied", "The caller is not authorized to assume this role.")
	}
	if life > role.MaxSession {
		return invalid("DurationSeconds exceeds the MaxSessionDuration set for this role.")
	}
	if identity != "" && !validSessionName.MatchString(identity) {
		return invalid("SourceIdentity is not valid.")
	}
	who := caller{
		secret: randomText(40), token: strings.ToLower(randomText(600)), expires: s.opts.Now().Add(life).Truncate(time.Second),
		role: role, name: name,
	}
	if text := form.Get("Policy"); text != "" {
		if who.session, err = parsePolicy(text); err != nil {
			return err
		}
	}
	id := keyID("ASIA")
	s.mu.Lock()
	s.callers[id] = who
	s.assumed = append(s.assumed, Assumed{role.ARN, name, identity, form.Get("Policy"), life})
	s.mu.Unlock()
	var out assumeRoleResponse
	out.RequestID = strings.ToLower(randomText(32))
	out.Result.SourceIdentity = identity
	out.Result.PackedPolicySize = len(form.Get("Policy")) * 100 / maxPolicy
	out.Result.AssumedRoleUser.Arn = strings.Replace(strings.Replace(role.ARN, ":iam:", ":sts:", 1), ":role/", ":assumed-role/", 1) + "/" + name
	out.Result.AssumedRoleUser.AssumedRoleID = "AROA" + strings.ToUpper(randomText(16)) + ":" + name
	k := &out.Result.Credentials
	k.AccessKeyID, k.SecretAccessKey, k.SessionToken, k.Expiration = id, who.secret, who.token, who.expires.UTC().Format(time.RFC3339)
	c.w.Header().Set("Content-Type", "text/xml")
	return xml.NewEncoder(c.w).Encode(out)
}

// failXML answers with an error of the query protocol.
func failXML(w http.ResponseWriter, p *problem) {
	kind := "Sender"
	if p.status >= http.StatusInternalServerError {
		kind = "Receiver"
	}
	w.Header().Set("Content-Type", "text/xml")
	w.WriteHeader(p.status)
	_ = xml.NewEncoder(w).Encode(struct { // the client has gone
		XMLName   xml.Name `xml:"https://sts.amazonaws.com/doc/2011-06-15/ ErrorResponse"`
		Type      string   `xml:"Error>Type"`
		Code      string   `xml:"Error>Code"`
		Message   string   `xml:"Error>Message"`
		RequestID string   `xml:"RequestId"`
	}{Type: kind, Code: p.code, Message: p.message, RequestID: strings.ToLower(randomText(32))})
}

func millis(t time.Time) string { return strconv.FormatInt(t.UnixMilli(), 10) }
