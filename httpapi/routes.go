package httpapi

import (
	"net/http"
	"strings"

	"github.com/gorilla/mux"
	"github.com/opticworks/devicecloud"
)

// who is whom a route answers. The domain decides again, and about each device;
// this keeps strangers from learning what a route thinks of their body.
type who uint8

const (
	anybody who = iota // no token needed, and none looked at
	person             // any token of ours
	staff              // platform staff
	admin              // platform administrators
	factory            // platform administrators and service accounts
)

// route is one line of the table.
type route struct {
	method string
	path   string
	who    who
	serve  endpoint
}

const (
	get    = http.MethodGet
	post   = http.MethodPost
	put    = http.MethodPut
	patch  = http.MethodPatch
	remove = http.MethodDelete
)

// routes is every route that speaks JSON. Each under /api/ answers under /api/v1/
// too, and those of commands under neither. [contracts, HTTP route table]
func (a *api) routes() []route {
	return []route{
		{post, "/api/auth/app-token", anybody, a.login},
		{remove, "/api/auth/app-token", anybody, a.signOut},
		{post, "/api/auth/app-magic-link", anybody, a.sendMagicLink},
		{post, "/api/auth/app-magic-link/verify", anybody, a.verifyMagicLink},
		{post, "/api/auth/refresh", anybody, a.refresh},
		{post, "/api/auth/logout", person, a.logout},
		{get, "/.well-known/jwks.json", anybody, a.jwks},
		{post, "/admin/auth/login", anybody, a.adminLogin},
		{get, "/admin/auth/oidc", anybody, a.beginStaffLogin},
		{get, "/admin/auth/oidc/callback", anybody, a.finishStaffLogin},
		{post, "/admin/auth/totp", staff, a.startTOTP},
		{post, "/admin/auth/totp/confirm", staff, a.confirmTOTP},
		{remove, "/admin/auth/totp", staff, a.disableTOTP},
		{post, "/oauth/token", anybody, a.clientCredentials},
		{get, "/api/me", person, a.me},
		{remove, "/api/me", person, a.erase},
		{get, "/api/me/sessions", person, a.listSessions},
		{remove, "/api/me/sessions", person, a.endOtherSessions},
		{remove, "/api/me/sessions/{sid}", person, a.endSession},
		{post, "/api/me/identities", person, a.linkIdentity},
		{remove, "/api/me/identities/{provider}", person, a.unlinkIdentity},

		{get, pathStream, person, a.streamEvents},
		{get, "/api/devices", person, a.listDevices},
		{post, "/api/devices/activate", person, a.activateDevice},
		{post, "/api/devices/claims", person, a.startClaim},
		{get, "/api/devices/claims/{claim_id}", person, a.getClaim},
		{get, "/api/devices/{id}", person, a.getDevice},
		{post, "/api/devices/{id}/claim-challenge", person, a.challengeDevice},
		{patch, "/api/devices/{id}", person, a.renameDevice},
		{remove, "/api/devices/{id}", person, a.removeDevice},
		{get, "/api/devices/{id}/connections", person, a.listConnections},
		{get, "/api/devices/{id}/events", person, a.listEvents},
		{post, "/api/devices/{id}/events/{event_id}/classify", person, a.classifyEvent},
		{post, "/api/devices/{id}/share", person, a.shareDevice},
		{get, "/api/devices/{id}/shares", person, a.listShares},
		{remove, "/api/devices/{id}/shares/{user_id}", person, a.removeShare},
		{post, "/api/devices/{id}/transfer", person, a.transferDevice},
		{get, "/api/invitations", person, a.listInvitations},
		{post, "/api/invitations/{id}/accept", person, a.acceptInvitation},
		{post, "/api/invitations/{id}/decline", person, a.declineInvitation},
		{get, "/api/devices/{id}/config", person, a.getConfig},
		{put, "/api/devices/{id}/config", person, a.putConfig},
		{post, "/api/devices/{id}/diagnostics", person, a.diagnose},
		{post, "/api/devices/{id}/commands", person, a.sendCommand},
		{get, "/api/devices/{id}/commands", person, a.listCommands},
		{get, "/api/devices/{id}/commands/{command_id}", person, a.getCommand},
		{remove, "/api/devices/{id}/commands/{command_id}", person, a.cancelCommand},
		{post, "/api/devices/{id}/stream", person, a.playStream},
		{get, "/api/devices/{id}/stream", person, a.playLive},
		{get, "/api/devices/{id}/clip", person, a.downloadClip},
		{post, "/api/devices/{id}/webrtc", person, a.watch},
		{post, "/api/devices/{id}/aws-identity", person, a.identifyAtAWS},
		{get, "/api/device/kvs-credentials", anybody, a.lendToDevice}, // a client certificate

		{get, "/api/devices/{id}/sim", person, a.deviceSIM},
		{post, "/api/webhooks/eiotclub", anybody, a.carrierWebhook}, // by signature
		{get, "/admin/sims", factory, a.listSIMs},
		{post, "/admin/sims/import", factory, a.importSIMs},
		{get, "/admin/sims/{sim_id}", factory, a.getSIM},
		{post, "/admin/sims/{sim_id}/assign", factory, a.assignSIM},
		{post, "/admin/sims/{sim_id}/unassign", factory, a.unassignSIM},
		{post, "/admin/sims/{sim_id}/refresh", factory, a.refreshSIM},

		{get, "/api/data-plans", person, a.listPlans},
		{post, "/api/checkout/data-plan", person, a.checkout},
		{get, "/api/checkout/sessions/{session_id}", anybody, a.getSession}, // with a token, the buyer's own
		{get, "/api/purchases", person, a.listPurchases},
		{post, "/api/webhooks/data-plan", anybody, a.stripeWebhook}, // by signature
		{get, "/admin/plans", admin, a.adminListPlans},
		{post, "/admin/plans", admin, a.createPlan},
		{get, "/admin/plans/{plan_id}", admin, a.adminGetPlan},
		{patch, "/admin/plans/{plan_id}", admin, a.changePlan},
		{remove, "/admin/plans/{plan_id}", admin, a.retirePlan},
		{get, "/admin/purchases", admin, a.adminListPurchases},
		{get, "/admin/purchases/{purchase_id}", admin, a.adminGetPurchase},
		{post, "/admin/purchases/{purchase_id}/refund", admin, a.refundPurchase},
		{post, "/admin/purchases/{purchase_id}/resume", admin, a.resumePurchase},
		{post, "/admin/purchases/{purchase_id}/retry", admin, a.retryPurchase},
		// Of who signs what they send.
		{post, "/api/internal/aws/iot-event", anybody, a.ingestEvents},
		{post, "/api/ingest/iot-events", anybody, a.ingestEvents},

		{post, "/admin/enroll", factory, a.enroll},
		{post, "/admin/devices/import", factory, a.importDevices},
		{post, "/admin/orders", factory, a.createOrder},
		{post, "/admin/orders/import", factory, a.importOrders},

		{get, "/admin/devices", staff, a.adminListDevices},
		{post, "/admin/devices/claim", staff, a.supportClaim},
		{get, "/admin/devices/{id}", staff, a.adminGetDevice},
		{remove, "/admin/devices/{id}", admin, a.deleteDevice},
		{patch, "/admin/devices/{id}", admin, a.changeDevice},
		{get, "/admin/devices/{id}/audit", staff, a.deviceAudit},
		{get, "/admin/devices/{id}/connections", staff, a.adminListConnections},
		{post, "/admin/devices/{id}/disable", staff, a.disableDevice},
		{post, "/admin/devices/{id}/enable", staff, a.enableDevice},
		{post, "/admin/devices/{id}/disconnect", staff, a.disconnectDevice},
		{post, "/admin/devices/{id}/entitlements", admin, a.grantEntitlement},
		{remove, "/admin/devices/{id}/entitlements", admin, a.revokeEntitlements},
		{post, "/admin/devices/{id}/release", staff, a.releaseDevice},
		{post, "/admin/devices/{id}/credentials", admin, a.addCredential},
		{get, "/admin/audit", admin, a.audit},
		{get, "/admin/explain", admin, a.explain},
		{get, "/admin/stats", admin, a.stats},

		{get, "/admin/staff", admin, a.listStaff},
		{post, "/admin/staff", admin, a.createStaff},
		{patch, "/admin/staff/{id}", admin, a.changeStaff},
		{remove, "/admin/staff/{id}/totp", admin, a.resetTOTP},

		{get, "/admin/users", staff, a.listUsers},
		{get, "/admin/users/{id}", staff, a.getUser},
		{remove, "/admin/users/{id}", admin, a.eraseUser},
		{post, "/admin/users/{id}/disable", admin, a.disableUser},
		{post, "/admin/users/{id}/enable", admin, a.enableUser},
		{post, "/admin/users/{id}/sign-out", staff, a.signOutUser},

		{get, "/admin/service-accounts", admin, a.listServiceAccounts},
		{post, "/admin/service-accounts", admin, a.createServiceAccount},
		{get, "/admin/service-accounts/{id}", admin, a.getServiceAccount},
		{remove, "/admin/service-accounts/{id}", admin, a.deleteServiceAccount},
		{post, "/admin/service-accounts/{id}/disable", admin, a.disableServiceAccount},
		{post, "/admin/service-accounts/{id}/enable", admin, a.enableServiceAccount},
		{post, "/admin/service-accounts/{id}/secret", admin, a.rotateClientSecret},
		{get, "/admin/service-accounts/{id}/keys", admin, a.listAPIKeys},
		{post, "/admin/service-accounts/{id}/keys", admin, a.createAPIKey},
		{remove, "/admin/service-accounts/{id}/keys/{key_id}", admin, a.revokeAPIKey},

		{get, "/admin/releases", admin, a.listReleases},
		{post, "/admin/releases", admin, a.createRelease},
		{get, "/admin/releases/{id}", admin, a.getRelease},
		{remove, "/admin/releases/{id}", admin, a.withdrawRelease},
		{get, "/admin/rollouts", admin, a.listRollouts},
		{post, "/admin/rollouts", admin, a.createRollout},
		{get, "/admin/rollouts/{id}", admin, a.getRollout},
		{patch, "/admin/rollouts/{id}", admin, a.changeRollout},
		{post, "/admin/rollouts/{id}/pause", admin, a.pauseRollout},
		{post, "/admin/rollouts/{id}/resume", admin, a.resumeRollout},
		{post, "/admin/rollouts/{id}/cancel", admin, a.cancelRollout},
		{get, "/admin/rollouts/{id}/devices", admin, a.listUpdates},
		{get, "/admin/webhooks", admin, a.listWebhooks},
		{post, "/admin/webhooks", admin, a.createWebhook},
		{get, "/admin/webhooks/{id}", admin, a.getWebhook},
		{patch, "/admin/webhooks/{id}", admin, a.changeWebhook},
		{remove, "/admin/webhooks/{id}", admin, a.deleteWebhook},
		{post, "/admin/webhooks/{id}/rotate", admin, a.rotateWebhook},
		{post, "/admin/webhooks/{id}/test", admin, a.testWebhook},
		{get, "/admin/webhooks/{id}/deliveries", admin, a.listDeliveries},
		{post, "/admin/webhooks/{id}/deliveries/{delivery_id}/replay", admin, a.replayDelivery},

		{get, "/livez", anybody, a.livez},
		{get, "/readyz", anybody, a.readyz},
	}
}

// documents are served as they are.
func (a *api) documents() map[string][]byte {
	return map[string][]byte{"/openapi.yaml": devicecloud.OpenAPI, "/asyncapi.yaml": devicecloud.AsyncAPI}
}

const (
	pathMQTT   = "/mqtt"
	pathMagic  = "/auth/magic"       // what a mailed link opens
	pathPaid   = "/checkout/success" // where the payment provider sends a buyer back to
	pathUnpaid = "/checkout/cancel"
	pathStream = "/api/events/stream"
	alias      = "/api/v1/"
	// pathCommands answers without /api too: so seed 004 spells it. [contracts G.2]
	pathCommands = "/devices/{id}/commands"
)

// mount puts the tables into the router.
func (a *api) mount() {
	for _, rt := range a.routes() {
		h := a.handle(rt)
		a.handleFunc(rt.method, rt.path, rt.path, h)
		if rest, ok := strings.CutPrefix(rt.path, "/api/"); ok {
			a.handleFunc(rt.method, alias+rest, rt.path, h)
		}
		if bare := strings.TrimPrefix(rt.path, "/api"); strings.HasPrefix(bare, pathCommands) && bare != rt.path {
			a.handleFunc(rt.method, bare, rt.path, h)
		}
	}
	for path, text := range a.documents() {
		a.handleFunc(get, path, path, document(text))
	}
	a.handleFunc(get, pathMagic, pathMagic, magicLinkPage(a.opts.AppLink))
	a.handleFunc(get, pathPaid, pathPaid, checkoutPage("Thank you", "Asking how the payment stands.", true))
	a.handleFunc(get, pathUnpaid, pathUnpaid, checkoutPage("Nothing was bought", "You can close this page and try again in the app.", false))
	if a.WebSocket != nil {
		a.handleFunc(get, pathMQTT, pathMQTT, a.WebSocket.ServeHTTP)
	}
	a.router.NotFoundHandler = http.HandlerFunc(a.notFound)
	a.router.MethodNotAllowedHandler = http.HandlerFunc(a.methodNotAllowed)
}

// handleFunc mounts one handler; label names it in metrics and in the log. HEAD is
// GET without the body, which net/http leaves out by itself.
func (a *api) handleFunc(method, path, label string, h http.HandlerFunc) {
	r := a.router.HandleFunc(path, func(w http.ResponseWriter, r *http.Request) {
		exchangeOf(r).route = label
		h(w, r)
	})
	if method == get && path != pathMQTT {
		r.Methods(get, http.MethodHead)
		return
	}
	r.Methods(method)
}

// methodNotAllowed answers 405 with the methods that the path has.
func (a *api) methodNotAllowed(w http.ResponseWriter, r *http.Request) {
	var allow []string
	for _, m := range []string{get, http.MethodHead, post, put, patch, remove} {
		probe := *r
		probe.Method = m
		var match mux.RouteMatch
		if a.router.Match(&probe, &match) && match.MatchErr == nil {
			allow = append(allow, m)
		}
	}
	w.Header().Set("Allow", strings.Join(allow, ", "))
	a.fail(w, r, errMethodNotAllowed)
}

func (a *api) notFound(w http.ResponseWriter, r *http.Request) { a.fail(w, r, errNoRoute) }
