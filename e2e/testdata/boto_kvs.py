# Drives a stand-in of AWS with AWS's own library, whose model every answer is held
# against; for videoclient_test.go. Arguments: endpoint, region, key id, secret, ARN of a
# role, ARN of its own stream, ARN of another stream, ARN of its own channel.
import datetime
import json
import sys

import boto3
import botocore.exceptions
import botocore.config
import botocore.session
import botocore.validate

endpoint, region, key, secret, role, stream, other, channel = sys.argv[1:]
config = botocore.config.Config(retries={'max_attempts': 0})


def client(service, **keys):
    c = boto3.client(service, region_name=region, endpoint_url=endpoint, config=config, **keys)

    def check(model, parsed, **_):
        # What came must be what the model says: every member known, of its type and form.
        if 'Error' in parsed or model.output_shape is None:
            return
        body = {k: v for k, v in parsed.items() if k != 'ResponseMetadata'}
        if model.has_streaming_output:
            body.pop('Payload', None)
        report = botocore.validate.ParamValidator().validate(body, model.output_shape)
        if report.has_errors():
            sys.exit(f'{model.name}: {report.generate_report()}')
        unknown = set(body) - set(model.output_shape.members)
        if unknown:
            sys.exit(f'{model.name}: {unknown} are not in the model')
    c.meta.events.register('after-call.*.*', check)
    return c


def denied(name, do):
    try:
        do()
    except botocore.exceptions.ClientError as e:
        if e.response['Error']['Code'] != 'AccessDeniedException':
            sys.exit(f'{name} is refused otherwise: {e}')
        return
    sys.exit(f'{name} is allowed')


own = dict(aws_access_key_id=key, aws_secret_access_key=secret)
policy = {'Version': '2012-10-17', 'Statement': [
    {'Effect': 'Allow', 'Action': ['kinesisvideo:GetDataEndpoint', 'kinesisvideo:GetHLSStreamingSessionURL', 'kinesisvideo:GetDASHStreamingSessionURL', 'kinesisvideo:GetClip', 'kinesisvideo:GetImages'], 'Resource': stream},
    {'Effect': 'Allow', 'Action': ['kinesisvideo:GetSignalingChannelEndpoint', 'kinesisvideo:GetIceServerConfig'], 'Resource': channel},
]}
k = client('sts', **own).assume_role(RoleArn=role, RoleSessionName='boto', Policy=json.dumps(policy), DurationSeconds=900)['Credentials']
keys = dict(aws_access_key_id=k['AccessKeyId'], aws_secret_access_key=k['SecretAccessKey'], aws_session_token=k['SessionToken'])

control, archive, signalling = client('kinesisvideo', **keys), client('kinesis-video-archived-media', **keys), client('kinesis-video-signaling', **keys)
day = datetime.datetime(2026, 1, 15, 10, tzinfo=datetime.timezone.utc)
minute = {'StartTimestamp': day, 'EndTimestamp': day + datetime.timedelta(minutes=1)}

client('kinesisvideo', **own).describe_stream(StreamARN=stream)
client('kinesisvideo', **own).describe_signaling_channel(ChannelARN=channel)
control.get_data_endpoint(StreamARN=stream, APIName='GET_CLIP')
control.get_signaling_channel_endpoint(ChannelARN=channel, SingleMasterChannelEndpointConfiguration={'Protocols': ['WSS', 'HTTPS'], 'Role': 'VIEWER'})
archive.get_hls_streaming_session_url(StreamARN=stream)
archive.get_dash_streaming_session_url(StreamARN=stream, PlaybackMode='ON_DEMAND', DASHFragmentSelector={'FragmentSelectorType': 'SERVER_TIMESTAMP', 'TimestampRange': minute})
clip = archive.get_clip(StreamARN=stream, ClipFragmentSelector={'FragmentSelectorType': 'SERVER_TIMESTAMP', 'TimestampRange': minute})
if clip['ContentType'] != 'video/mp4' or clip['Payload'].read()[4:8] != b'ftyp':
    sys.exit('the clip is none')
archive.get_images(StreamARN=stream, ImageSelectorType='SERVER_TIMESTAMP', Format='JPEG', SamplingInterval=3000, **minute)
signalling.get_ice_server_config(ChannelARN=channel, ClientId='me', Service='TURN')
client('cognito-identity', **own).get_open_id_token_for_developer_identity(IdentityPoolId=region + ':00000000-0000-0000-0000-000000000000', Logins={'devicecloud': 'u1'}, PrincipalTags={'device_id': 'd'}, TokenDuration=900)

denied('another stream', lambda: control.get_data_endpoint(StreamARN=other, APIName='GET_CLIP'))
denied('another stream, by name', lambda: control.get_data_endpoint(StreamName=other.split('/')[1], APIName='GET_CLIP'))
denied('a clip of another stream', lambda: archive.get_clip(StreamARN=other, ClipFragmentSelector={'FragmentSelectorType': 'SERVER_TIMESTAMP', 'TimestampRange': minute}))
denied('an action that the policy does not have', lambda: control.describe_stream(StreamARN=stream))
try:
    client('kinesisvideo', **dict(keys, aws_secret_access_key='x' * 40)).describe_stream(StreamARN=stream)
    sys.exit('a wrong key signs')
except botocore.exceptions.ClientError as e:
    if e.response['Error']['Code'] != 'SignatureDoesNotMatch':
        sys.exit(f'a wrong key is refused otherwise: {e}')
print('done')
