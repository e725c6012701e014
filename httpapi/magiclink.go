package httpapi

import (
	"crypto/sha256"
	_ "embed"
	"encoding/base64"
	"html"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/opticworks/devicecloud/account"
	"github.com/opticworks/devicecloud/registry"
)

// sentBody is the answer to whoever asks for a link, whether or not the address is
// anybody's.
type sentBody struct {
	Sent      bool  `json:"sent"`
	ExpiresIn int64 `json:"expires_in"` // seconds
}

// sendMagicLink mails a link. [contracts C.2]
func (a *api) sendMagicLink(r *request) (answer, error) {
	var in struct {
		Email         string `json:"email"`
		InstallID     string `json:"install_id"`
		CodeChallenge string `json:"code_challenge"`
	}
	if err := a.limitLogins(r); err != nil {
		return answer{}, err
	}
	if err := r.decodeLogin(&in); err != nil {
		return answer{}, err
	}
	// What is not an address is refused by the domain, after what is missing. The limit
	// counts whether or not the address is anybody's.
	if email, err := registry.NormalizeEmail(in.Email); err == nil {
		if err := a.limits.magicLink(exchangeOf(r.Request).address, email); err != nil {
			return answer{}, err
		}
	}
	if err := a.Accounts.SendMagicLink(r.Context(), account.MagicLinkRequest{
		Email: in.Email, InstallID: in.InstallID, CodeChallenge: in.CodeChallenge,
	}); err != nil {
		return answer{}, err
	}
	return answer{http.StatusAccepted, sentBody{Sent: true, ExpiresIn: int64(account.LinkLife / time.Second)}}, nil
}

// verifyMagicLink signs in who shows a link's token. [contracts C.2]
func (a *api) verifyMagicLink(r *request) (answer, error) {
	var in struct {
		Token        string `json:"token"`
		InstallID    string `json:"install_id"`
		CodeVerifier string `json:"code_verifier"`
		Device       struct {
			Platform string `json:"platform"`
			Name     string `json:"name"`
		} `json:"device"`
	}
	if err := a.limitLogins(r); err != nil {
		return answer{}, err
	}
	if err := r.decodeLogin(&in); err != nil {
		return answer{}, err
	}
	if err := a.limits.install(in.InstallID); err != nil {
		return answer{}, err
	}
	tokens, u, err := a.Accounts.VerifyMagicLink(r.Context(), account.MagicLinkProof{
		Token: in.Token, CodeVerifier: in.CodeVerifier,
		Device: account.Device{InstallID: in.InstallID, Platform: in.Device.Platform, Name: in.Device.Name},
	}, r.actor)
	if err != nil {
		return answer{}, err
	}
	return ok(newTokenBody(tokens, loginUser{UserID: u.ID, Email: text(u.Email), EmailVerified: u.EmailVerified}))
}

var (
	//go:embed magiclink.html
	magicPage string
	//go:embed magiclink.js
	magicScript string
	//go:embed magiclink.css
	magicStyle string
)

// magicLinkPage is what a mailed link opens: a page that hands the link's token to
// the app. It is the same bytes for everybody: the token is in the fragment, which
// no browser sends, and nothing of the query is looked at. So a mail scanner that
// fetches it neither uses a token nor learns one, and it redirects nowhere.
func magicLinkPage(appLink string) http.HandlerFunc {
	body := []byte(strings.NewReplacer("{{app}}", html.EscapeString(appLink), "{{script}}", magicScript, "{{style}}", magicStyle).Replace(magicPage))
	policy := "default-src 'none'; script-src '" + sourceHash(magicScript) + "'; style-src '" + sourceHash(magicStyle) +
		"'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
	return func(w http.ResponseWriter, _ *http.Request) {
		h := w.Header() // with no-store and no-referrer, as every answer
		h.Set("Content-Type", "text/html; charset=utf-8")
		h.Set("Content-Length", strconv.Itoa(len(body)))
		h.Set("Content-Security-Policy", policy)
		h.Set("X-Robots-Tag", "noindex")
		_, _ = w.Write(body) // the client has gone: there is nobody to tell
	}
}

// sourceHash names an inline script or style in a Content-Security-Policy.
func sourceHash(source string) string {
	sum := sha256.Sum256([]byte(source))
	return "sha256-" + base64.StdEncoding.EncodeToString(sum[:])
}
