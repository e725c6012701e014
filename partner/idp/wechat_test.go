package idp_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/opticworks/devicecloud/account"
	"github.com/opticworks/devicecloud/partner/idp"
	"github.com/opticworks/devicecloud/registry"
)

const weChatSecret = "0123456789abcdef-app-secret"

func newWeChat(t *testing.T, c *clock, answer http.HandlerFunc) *idp.WeChat {
	t.Helper()
	server := httptest.NewServer(answer)
	t.Cleanup(server.Close)
	w, err := idp.NewWeChat(idp.WeChatApp{ID: "wx123", Secret: weChatSecret, BaseURL: server.URL}, idp.Options{Now: c.now})
	if err != nil {
		t.Fatal(err)
	}
	return w
}

func text(body string) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "text/plain")
		_, _ = io.WriteString(w, body)
	}
}

func TestWeChatCodesBecomePeople(t *testing.T) {
	c := newClock()
	for name, tc := range map[string]struct {
		answer string
		want   []string
	}{
		"openid alone":            {`{"session_key":"c2Vzc2lvbi1rZXk=","openid":"oGZUI0egBJY1zhBYw2KhdUfwVJJE"}`, []string{"openid:oGZUI0egBJY1zhBYw2KhdUfwVJJE"}},
		"unionid first":           {`{"openid":"oGZ","unionid":"o6_bmasdasdsad6_2sgVt7hMZOPfL","session_key":"x"}`, []string{"unionid:o6_bmasdasdsad6_2sgVt7hMZOPfL", "openid:oGZ"}},
		"errcode 0 is no error":   {`{"openid":"oGZ","errcode":0,"errmsg":"ok"}`, []string{"openid:oGZ"}},
		"an empty unionid is not": {`{"openid":"oGZ","unionid":""}`, []string{"openid:oGZ"}},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWeChat(t, c, func(rw http.ResponseWriter, r *http.Request) {
				q := r.URL.Query()
				if r.Method != http.MethodGet || r.URL.Path != "/sns/jscode2session" || q.Get("appid") != "wx123" || q.Get("secret") != weChatSecret ||
					q.Get("js_code") != "code & more" || q.Get("grant_type") != "authorization_code" || len(q) != 4 {
					t.Errorf("asked %s %s", r.Method, r.URL)
				}
				text(tc.answer)(rw, r)
			})
			who, err := w.Verify(t.Context(), account.LoginRequest{Code: "code & more"})
			if err != nil || !slices.Equal(who.Subjects, tc.want) || who.Email != "" || who.EmailVerified || who.Proof != "code & more" || !who.Expires.Equal(c.now().Add(10*time.Minute)) {
				t.Errorf("got %+v, %v", who, err)
			}
			if all := fmt.Sprintf("%+v", who); strings.Contains(all, "session") || strings.Contains(all, "c2Vzc2lvbi1rZXk=") {
				t.Errorf("the session key is kept: %s", all)
			}
		})
	}
}

func TestWeChatRefusalsHaveTheirCodes(t *testing.T) {
	for name, tc := range map[string]struct {
		answer http.HandlerFunc
		want   error
	}{
		"-1 busy":                     {text(`{"errcode":-1,"errmsg":"system error"}`), account.ErrProviderUnavailable},
		"40029 unknown code":          {text(`{"errcode":40029,"errmsg":"invalid code"}`), account.ErrInvalidToken},
		"40163 used code":             {text(`{"errcode":40163,"errmsg":"code been used"}`), account.ErrInvalidToken},
		"40226 blocked":               {text(`{"errcode":40226,"errmsg":"code blocked"}`), account.ErrAccountDisabled},
		"45011 too often":             {text(`{"errcode":45011,"errmsg":"api minute-quota reach limit"}`), account.ErrRateLimited},
		"40125 wrong secret":          {text(`{"errcode":40125,"errmsg":"invalid appsecret"}`), account.ErrProviderUnavailable},
		"an error beside an openid":   {text(`{"errcode":40029,"openid":"oGZ"}`), account.ErrInvalidToken},
		"nothing":                     {text(``), account.ErrProviderUnavailable},
		"an empty object":             {text(`{}`), account.ErrProviderUnavailable},
		"a list":                      {text(`[]`), account.ErrProviderUnavailable},
		"an openid that is a number":  {text(`{"openid":7}`), account.ErrProviderUnavailable},
		"an openid with a line break": {text(`{"openid":"a\nb"}`), account.ErrProviderUnavailable},
		"an openid that is too long":  {text(`{"openid":"` + strings.Repeat("o", 129) + `"}`), account.ErrProviderUnavailable},
		"a unionid that is not one":   {text(`{"openid":"oGZ","unionid":" "}`), account.ErrProviderUnavailable},
		"an answer that is too large": {text(strings.Repeat(" ", 300<<10) + `{"openid":"oGZ"}`), account.ErrProviderUnavailable},
		"500":                         {func(w http.ResponseWriter, _ *http.Request) { http.Error(w, "no", http.StatusInternalServerError) }, account.ErrProviderUnavailable},
		"a redirect to another host": {func(w http.ResponseWriter, r *http.Request) {
			http.Redirect(w, r, "http://127.0.0.2:1"+r.URL.String(), http.StatusFound)
		}, account.ErrProviderUnavailable},
		"a connection that is cut":      {func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) }, account.ErrProviderUnavailable},
		"an HTML page of a captive net": {text(`<html>sign in</html>`), account.ErrProviderUnavailable},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWeChat(t, newClock(), tc.answer)
			who, err := w.Verify(t.Context(), account.LoginRequest{Code: "code-1"})
			if !errors.Is(err, tc.want) {
				t.Fatalf("got %+v, %v, want %v", who, err, tc.want)
			}
			var log bytes.Buffer
			slog.New(slog.NewTextHandler(&log, nil)).Error("request failed", "error", err)
			if all := log.String() + err.Error(); strings.Contains(all, weChatSecret) || strings.Contains(all, "code-1") {
				t.Errorf("the error holds a secret: %s", all)
			}
			var e *registry.Error
			if errors.As(err, &e) && e.Kind == registry.RateLimited && e.RetryAfter < time.Second {
				t.Errorf("when to try again: %v", e.RetryAfter)
			}
		})
	}
}

func TestWeChatUnreachableNeverShowsItsSecret(t *testing.T) {
	server := httptest.NewServer(http.NotFoundHandler())
	server.Close() // nobody listens there
	w, err := idp.NewWeChat(idp.WeChatApp{ID: "wx123", Secret: weChatSecret, BaseURL: server.URL}, idp.Options{})
	if err != nil {
		t.Fatal(err)
	}
	_, err = w.Verify(t.Context(), account.LoginRequest{Code: "code-1"})
	if !errors.Is(err, account.ErrProviderUnavailable) || strings.Contains(err.Error(), weChatSecret) || strings.Contains(err.Error(), "code-1") {
		t.Errorf("got %v", err)
	}
}

func TestWeChatAsksNothingForWhatIsNoCode(t *testing.T) {
	w := newWeChat(t, newClock(), func(http.ResponseWriter, *http.Request) { t.Error("WeChat was asked") })
	if _, err := w.Verify(t.Context(), account.LoginRequest{IDToken: "x"}); !errors.Is(err, account.ErrMissingFields) {
		t.Errorf("no code: %v", err)
	}
	for _, code := range []string{strings.Repeat("c", 513), "a\nb", "\x00", "é"} {
		if _, err := w.Verify(t.Context(), account.LoginRequest{Code: code}); !errors.Is(err, account.ErrInvalidToken) {
			t.Errorf("%q: %v", code, err)
		}
	}
}

func TestWeChatAppsThatCannotBeRightAreRefused(t *testing.T) {
	for name, app := range map[string]idp.WeChatApp{
		"no id":      {Secret: weChatSecret},
		"no secret":  {ID: "wx123"},
		"plain HTTP": {ID: "wx123", Secret: weChatSecret, BaseURL: "http://api.example"},
	} {
		if _, err := idp.NewWeChat(app, idp.Options{}); err == nil || strings.Contains(err.Error(), weChatSecret) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if shown := fmt.Sprintf("%v %+v %#v %s", idp.WeChatApp{Secret: weChatSecret}, idp.WeChatApp{Secret: weChatSecret}, idp.Secret(weChatSecret), idp.Secret(weChatSecret)); strings.Contains(shown, weChatSecret) {
		t.Errorf("the secret shows: %s", shown)
	}
	if b, err := json.Marshal(idp.Secret(weChatSecret)); err != nil || strings.Contains(string(b), weChatSecret) {
		t.Errorf("the secret shows in JSON: %s, %v", b, err)
	}
}

func FuzzWeChatAnswer(f *testing.F) {
	f.Add([]byte(`{"openid":"oGZ","unionid":"o6","session_key":"x"}`))
	f.Add([]byte(`{"errcode":-1}`))
	f.Add([]byte(`{"errcode":1e400}`))
	f.Add([]byte("\xff"))
	f.Fuzz(func(t *testing.T, answer []byte) {
		subjects, err := idp.ParseSession(answer)
		if (err == nil) != (len(subjects) > 0) {
			t.Fatalf("%v, %v", subjects, err)
		}
		for _, s := range subjects {
			if kind, id, ok := strings.Cut(s, ":"); !ok || kind != "openid" && kind != "unionid" || id == "" || len(id) > 128 {
				t.Errorf("subject %q", s)
			}
		}
		var e *registry.Error
		if err != nil && (!errors.As(err, &e) || e.Kind == registry.Internal) {
			t.Errorf("an error without a code: %v", err)
		}
	})
}

func FuzzKeySet(f *testing.F) {
	f.Add([]byte(`{"keys":[{"kty":"OKP","crv":"Ed25519","x":"11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo","kid":"a"}]}`))
	f.Add([]byte(`{"keys":[{}]}`))
	f.Add([]byte(`{"keys":[{"kty":"oct","k":"AA"}]}`))
	f.Fuzz(func(t *testing.T, set []byte) {
		n, err := idp.ParseKeys(set)
		if (err == nil) != (n > 0) {
			t.Errorf("%d keys, %v", n, err)
		}
	})
}
