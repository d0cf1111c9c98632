"""Files are whole or refused, and nothing in them is run."""

import io
import pickle
import zipfile

import pytest
import torch

from erq_mm.export.container import MARK, Contents, is_ours, read, write

SUFFIXES = ('.safetensors', '.pth')
CONTENTS = Contents({'a': torch.arange(6.0).view(2, 3), 'empty': torch.zeros(0, 4)}, {MARK: '{}', 'other': 'ü"\\\n'})


@pytest.fixture(params=SUFFIXES)
def path(tmp_path, request):
    path = tmp_path / f'model{request.param}'
    write(path, CONTENTS)
    return path


def test_contents_come_back(path):
    found = read(path)
    assert found.texts.items() >= CONTENTS.texts.items() and is_ours(path)
    assert all(torch.equal(found.tensors[name], tensor) for name, tensor in CONTENTS.tensors.items())


def test_every_byte_counts(path):
    whole = path.read_bytes()
    for index in range(len(whole)):
        path.write_bytes(whole[:index] + bytes([whole[index] ^ 0x10]) + whole[index + 1 :])
        with pytest.raises(ValueError, match=path.name):
            read(path)


def test_every_truncation_is_noticed(path):
    whole = path.read_bytes()
    for size in range(len(whole)):
        path.write_bytes(whole[:size])
        with pytest.raises(ValueError, match='damaged|no checksum'):
            read(path)
    path.write_bytes(whole + b'\0')
    with pytest.raises(ValueError, match='damaged|no checksum'):
        read(path)


def test_a_failed_write_leaves_the_old_file(path, monkeypatch):
    whole = path.read_bytes()
    monkeypatch.setattr('erq_mm.export.container._sign', lambda *_: (_ for _ in ()).throw(OSError('disk full')))
    with pytest.raises(OSError, match='disk full'):
        write(path, Contents({'a': torch.ones(1)}, {MARK: '{}'}))
    assert path.read_bytes() == whole and [path] == list(path.parent.iterdir())


def test_other_files_are_named(tmp_path):
    with pytest.raises(ValueError, match='safetensors'):
        write(tmp_path / 'model.onnx', CONTENTS)
    with pytest.raises(FileNotFoundError, match='none.pth'):
        read(tmp_path / 'none.pth')
    torch.save({'state_dict': {}}, tmp_path / 'float.pth')
    assert not is_ours(tmp_path / 'float.pth') and not is_ours(tmp_path / 'none.pth')
    with pytest.raises(ValueError, match='not a quantized model'):
        read(tmp_path / 'float.pth')


class Bomb:
    def __reduce__(self):
        return exec, ('raise SystemExit("code of the file was run")',)


def signed(path, data: bytes) -> None:
    """Write bytes with a checksum that holds."""
    import erq_mm.export.container as container

    path.write_bytes(data)
    container._sign(path, path.suffix)


def test_pickled_code_is_not_run(tmp_path):
    buffer = io.BytesIO()
    torch.save({'tensors': {}, 'texts': {MARK: '{}'}, 'more': Bomb()}, buffer)
    signed(tmp_path / 'model.pth', buffer.getvalue())
    with pytest.raises(ValueError, match='UnpicklingError'):
        read(tmp_path / 'model.pth')


def rezipped(data: bytes, compression: int, replace: dict[str, bytes]) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(data)) as old, zipfile.ZipFile(out, 'w', compression) as new:
        for entry in old.infolist():
            name = entry.filename.split('/', 1)[1]
            new.writestr(entry.filename, replace.get(name, old.read(entry)))
    return out.getvalue()


def test_zip_bombs_are_refused(tmp_path):
    buffer = io.BytesIO()
    torch.save({'tensors': {'a': torch.zeros(4)}, 'texts': {MARK: '{}'}}, buffer)
    bomb = rezipped(buffer.getvalue(), zipfile.ZIP_DEFLATED, {'data/0': bytes(2**24)})
    assert len(bomb) < 2**18
    signed(tmp_path / 'model.pth', bomb)
    with pytest.raises(ValueError, match='compressed'):
        read(tmp_path / 'model.pth')


def test_huge_strided_tensors_are_refused(tmp_path):
    buffer = io.BytesIO()
    torch.save({'tensors': {'a': torch.zeros(1).expand(2**40)}, 'texts': {MARK: '{}'}}, buffer)
    signed(tmp_path / 'model.pth', buffer.getvalue())
    with pytest.raises(ValueError, match='claims more than the file holds'):
        read(tmp_path / 'model.pth')


@pytest.mark.parametrize('value', [1, None, ['x'], {'a': 1}])
def test_texts_are_texts(tmp_path, value):
    buffer = io.BytesIO()
    torch.save({'tensors': {}, 'texts': {MARK: value}}, buffer)
    signed(tmp_path / 'model.pth', buffer.getvalue())
    with pytest.raises(ValueError, match='no text'):
        read(tmp_path / 'model.pth')


def header_of(text: bytes, tensors: bytes = b'') -> bytes:
    return len(text).to_bytes(8, 'little') + text + tensors


@pytest.mark.parametrize(
    'entry',
    [
        b'"a":{"dtype":"F32","shape":[4611686018427387904],"data_offsets":[0,4]}',  # claims 2**62 numbers
        b'"a":{"dtype":"F32","shape":[1],"data_offsets":[0,400]}',
        b'"a":{"dtype":"F32","shape":[1],"data_offsets":[-4,0]}',
        b'"a":{"dtype":"Z9","shape":[1],"data_offsets":[0,4]}',
        b'"a":' + b'[' * 100_000,
        b'"\xff\xfe":1',
    ],
)
def test_made_up_headers(tmp_path, entry):
    digest = b'"__metadata__":{"erq_mm":"{}","sha256":"' + b'0' * 64 + b'"}'
    signed(tmp_path / 'model.safetensors', header_of(b'{' + digest + b',' + entry + b'}', bytes(4)))
    with pytest.raises(ValueError, match='model.safetensors is no quantized model'):
        read(tmp_path / 'model.safetensors')


def test_pickles_of_old_torch_are_no_zip(tmp_path):
    (tmp_path / 'model.pth').write_bytes(pickle.dumps({'tensors': {}}))
    with pytest.raises(ValueError, match='no checksum'):
        read(tmp_path / 'model.pth')
