"""
Colours, blur and normalisation of RGB crops on a GPU, in four kernels and one sum: means for the contrast, all colours
of a pixel in the order of its view, and the two directions of the blur. One by one, these are hundreds of launches.

A program has a tile of one view and takes what happens to that view from a row of `_table`. Views that an operation
leaves as they are cost it the start of a program that ends at once.
"""

import torch
import triton
import triton.language as tl

_TILE = 1024  # pixels of a program, or values in the blur
_NUM_WARPS = 4

# Columns of `parameters`, which `_table` completes: the order becomes its code, and the place of the contrast in it
# and the place of a view among the blurred ones are added.
_FLIP, _BRIGHTNESS, _CONTRAST, _SATURATION = tl.constexpr(0), tl.constexpr(1), tl.constexpr(2), tl.constexpr(3)
_HUE, _ORDER, _GREY, _SIGMA = tl.constexpr(4), tl.constexpr(5), tl.constexpr(6), tl.constexpr(7)
_THRESHOLD, _CONTRAST_PLACE, _BLURRED_PLACE = tl.constexpr(8), tl.constexpr(9), tl.constexpr(10)
_COLUMNS = tl.constexpr(11)


@triton.jit
def _luminance(red: tl.tensor, green: tl.tensor, blue: tl.tensor) -> tl.tensor:
    return 0.2989 * red + 0.587 * green + 0.114 * blue


@triton.jit
def _clamp(values: tl.tensor) -> tl.tensor:
    return tl.minimum(tl.maximum(values, 0.0), 1.0)


@triton.jit
def _channel(hue: tl.tensor, chroma: tl.tensor, value: tl.tensor, least: tl.tensor, turns: tl.tensor) -> tl.tensor:
    """One channel of the colour whose hue, times its chroma, is moved by `turns` sixths of the circle."""
    offset = turns - 6.0 * tl.floor(turns / 6.0) - 3.0
    channel = value + chroma - tl.abs(tl.abs(hue + chroma * offset) - 3.0 * chroma)
    return tl.minimum(tl.maximum(channel, least), value)


@triton.jit
def _turn_hue(red: tl.tensor, green: tl.tensor, blue: tl.tensor, shift: tl.tensor) -> tuple[tl.tensor, ...]:
    """The closed form of `adjust_hue` in `lejepa_hf.data.photometric`."""
    high, low = tl.maximum(green, blue), tl.minimum(green, blue)
    value, least = tl.maximum(red, high), tl.minimum(red, low)
    chroma = value - least
    hue = tl.abs(tl.minimum(low - red + 2.0 * chroma, high - low + 3.0 * (value - red)))
    hue = tl.where(green < blue, -hue, hue)
    turns = 6.0 * shift
    return (
        _channel(hue, chroma, value, least, turns + 6.0),
        _channel(hue, chroma, value, least, turns + 4.0),
        _channel(hue, chroma, value, least, turns + 2.0),
    )


@triton.jit
def _jittered(
    red: tl.tensor, green: tl.tensor, blue: tl.tensor, row: tl.tensor, mean: tl.tensor, num_places: tl.tensor
) -> tuple[tl.tensor, ...]:
    """The first adjustments in the order of the view; `mean` is the luminance that the contrast blends with."""
    brightness, contrast = tl.load(row + _BRIGHTNESS), tl.load(row + _CONTRAST)
    saturation, hue = tl.load(row + _SATURATION), tl.load(row + _HUE)
    order = tl.load(row + _ORDER).to(tl.int32)
    for place in range(num_places):
        which = (order >> (2 * place)) & 3
        if (which == 0) & (brightness != 1.0):
            red, green, blue = _clamp(red * brightness), _clamp(green * brightness), _clamp(blue * brightness)
        if (which == 1) & (contrast != 1.0):
            rest = mean * (1.0 - contrast)
            red, green, blue = (
                _clamp(red * contrast + rest),
                _clamp(green * contrast + rest),
                _clamp(blue * contrast + rest),
            )
        if (which == 2) & (saturation != 1.0):
            rest = _luminance(red, green, blue) * (1.0 - saturation)
            red, green, blue = (
                _clamp(red * saturation + rest),
                _clamp(green * saturation + rest),
                _clamp(blue * saturation + rest),
            )
        if (which == 3) & (hue != 0.0):
            red, green, blue = _turn_hue(red, green, blue, hue)
    return red, green, blue


@triton.jit
def _pixels(
    crops_ptr: tl.tensor,
    view: tl.tensor,
    view_stride: tl.tensor,
    channel_stride: tl.tensor,
    row_stride: tl.tensor,
    column_stride: tl.tensor,
    width: tl.tensor,
    flip: tl.tensor,
    pixels: tl.tensor,
    inside: tl.tensor,
) -> tuple[tl.tensor, ...]:
    """Red, green and blue in [0, 1] at these pixels of a view, which is flipped if it is to be."""
    rows = pixels // width
    columns = pixels - rows * width
    columns = tl.where(flip != 0.0, width - 1 - columns, columns)
    pointers = crops_ptr + view.to(tl.int64) * view_stride + rows * row_stride + columns * column_stride
    red = tl.load(pointers, mask=inside, other=0).to(tl.float32) / 255.0
    green = tl.load(pointers + channel_stride, mask=inside, other=0).to(tl.float32) / 255.0
    blue = tl.load(pointers + 2 * channel_stride, mask=inside, other=0).to(tl.float32) / 255.0
    return red, green, blue


@triton.jit
def _means_kernel(
    crops_ptr: tl.tensor,  # (N, 3, H, W), uint8
    view_stride: tl.tensor,
    channel_stride: tl.tensor,
    row_stride: tl.tensor,
    column_stride: tl.tensor,
    table_ptr: tl.tensor,  # (N, _COLUMNS)
    sums_ptr: tl.tensor,  # (N, tiles): luminance right before the contrast, of views that it changes
    width: tl.tensor,
    num_pixels: tl.tensor,
    num_tiles: tl.tensor,
    TILE: tl.constexpr,
) -> None:
    view = tl.program_id(0) // num_tiles
    row = table_ptr + view * _COLUMNS
    if tl.load(row + _CONTRAST) == 1.0:
        return
    pixels = (tl.program_id(0) - view * num_tiles) * TILE + tl.arange(0, TILE)
    inside = pixels < num_pixels
    red, green, blue = _pixels(
        crops_ptr, view, view_stride, channel_stride, row_stride, column_stride, width, 0.0, pixels, inside
    )
    red, green, blue = _jittered(red, green, blue, row, 0.0, tl.load(row + _CONTRAST_PLACE).to(tl.int32))
    light = tl.where(inside, _luminance(red, green, blue), 0.0)
    tl.store(sums_ptr + tl.program_id(0), tl.sum(light, axis=0))


@triton.jit
def _finished(values: tl.tensor, threshold: tl.tensor, mean: tl.tensor, std: tl.tensor) -> tl.tensor:
    """Solarised and normalised."""
    values = tl.abs(values - tl.where(values >= threshold, 1.0, 0.0))
    return (values - mean) / std


@triton.jit
def _colours_kernel(
    crops_ptr: tl.tensor,  # (N, 3, H, W), uint8
    view_stride: tl.tensor,
    channel_stride: tl.tensor,
    row_stride: tl.tensor,
    column_stride: tl.tensor,
    table_ptr: tl.tensor,  # (N, _COLUMNS)
    sums_ptr: tl.tensor,  # (N,): luminance right before the contrast, of views that it changes
    result_ptr: tl.tensor,  # (N, 3, H, W): finished, or in [0, 1] if the view is to be blurred
    width: tl.tensor,
    num_pixels: tl.tensor,
    num_tiles: tl.tensor,
    red_mean: tl.tensor,
    green_mean: tl.tensor,
    blue_mean: tl.tensor,
    red_std: tl.tensor,
    green_std: tl.tensor,
    blue_std: tl.tensor,
    TILE: tl.constexpr,
) -> None:
    view = tl.program_id(0) // num_tiles
    row = table_ptr + view * _COLUMNS
    pixels = (tl.program_id(0) - view * num_tiles) * TILE + tl.arange(0, TILE)
    inside = pixels < num_pixels
    red, green, blue = _pixels(
        crops_ptr,
        view,
        view_stride,
        channel_stride,
        row_stride,
        column_stride,
        width,
        tl.load(row + _FLIP),
        pixels,
        inside,
    )
    mean = tl.load(sums_ptr + view) / num_pixels  # of no use if the contrast stays
    red, green, blue = _jittered(red, green, blue, row, mean, 4)
    if tl.load(row + _GREY) != 0.0:
        grey = _luminance(red, green, blue)
        red, green, blue = grey, grey, grey
    if tl.load(row + _SIGMA) == 0.0:
        threshold = tl.load(row + _THRESHOLD)
        red = _finished(red, threshold, red_mean, red_std)
        green = _finished(green, threshold, green_mean, green_std)
        blue = _finished(blue, threshold, blue_mean, blue_std)
    pointers = result_ptr + view.to(tl.int64) * 3 * num_pixels + pixels
    tl.store(pointers, red, mask=inside)
    tl.store(pointers + num_pixels, green, mask=inside)
    tl.store(pointers + 2 * num_pixels, blue, mask=inside)


@triton.jit
def _blurred(
    view_ptr: tl.tensor,
    values: tl.tensor,  # their numbers in the view, (3, H, W)
    inside: tl.tensor,
    places: tl.tensor,  # along the blurred dimension
    length: tl.tensor,  # of that dimension
    stride: tl.tensor,
    sigma: tl.tensor,
    TAPS: tl.constexpr,
) -> tl.tensor:
    """A weighted mean of neighbours along one dimension, which is reflected at the border."""
    total = tl.zeros_like(places).to(tl.float32)
    weights = 0.0
    for tap in range(-(TAPS // 2), TAPS // 2 + 1):
        distance = tap / sigma
        weight = tl.exp(-0.5 * distance * distance)
        neighbours = tl.abs(places + tap)
        neighbours = tl.where(neighbours < length, neighbours, 2 * (length - 1) - neighbours)
        total += weight * tl.load(view_ptr + values + (neighbours - places) * stride, mask=inside, other=0.0)
        weights += weight
    return total / weights


@triton.jit
def _blur_rows_kernel(
    result_ptr: tl.tensor,  # (N, 3, H, W)
    blurred_ptr: tl.tensor,  # (blurred views, 3, H, W), written
    table_ptr: tl.tensor,  # (N, _COLUMNS)
    width: tl.tensor,
    num_values: tl.tensor,  # 3 H W
    num_tiles: tl.tensor,
    TAPS: tl.constexpr,
    TILE: tl.constexpr,
) -> None:
    view = tl.program_id(0) // num_tiles
    row = table_ptr + view * _COLUMNS
    sigma = tl.load(row + _SIGMA)
    if sigma == 0.0:
        return
    values = (tl.program_id(0) - view * num_tiles) * TILE + tl.arange(0, TILE)
    inside = values < num_values
    view_ptr = result_ptr + view.to(tl.int64) * num_values
    blurred = _blurred(view_ptr, values, inside, values % width, width, 1, sigma, TAPS)
    tl.store(blurred_ptr + tl.load(row + _BLURRED_PLACE).to(tl.int64) * num_values + values, blurred, mask=inside)


@triton.jit
def _blur_columns_kernel(
    blurred_ptr: tl.tensor,  # (blurred views, 3, H, W)
    result_ptr: tl.tensor,  # (N, 3, H, W), blurred views are written
    table_ptr: tl.tensor,  # (N, _COLUMNS)
    width: tl.tensor,
    height: tl.tensor,
    num_values: tl.tensor,  # 3 H W
    num_tiles: tl.tensor,
    red_mean: tl.tensor,
    green_mean: tl.tensor,
    blue_mean: tl.tensor,
    red_std: tl.tensor,
    green_std: tl.tensor,
    blue_std: tl.tensor,
    TAPS: tl.constexpr,
    TILE: tl.constexpr,
) -> None:
    view = tl.program_id(0) // num_tiles
    row = table_ptr + view * _COLUMNS
    sigma = tl.load(row + _SIGMA)
    if sigma == 0.0:
        return
    values = (tl.program_id(0) - view * num_tiles) * TILE + tl.arange(0, TILE)
    inside = values < num_values
    view_ptr = blurred_ptr + tl.load(row + _BLURRED_PLACE).to(tl.int64) * num_values
    rows = values // width
    channels = rows // height
    blurred = _blurred(view_ptr, values, inside, rows - channels * height, height, width, sigma, TAPS)
    mean = tl.where(channels == 0, red_mean, tl.where(channels == 1, green_mean, blue_mean))
    std = tl.where(channels == 0, red_std, tl.where(channels == 1, green_std, blue_std))
    finished = _finished(blurred, tl.load(row + _THRESHOLD), mean, std)
    tl.store(result_ptr + view.to(tl.int64) * num_values + values, finished, mask=inside)


def _table(parameters: torch.Tensor, orders: torch.Tensor, is_blurred: torch.Tensor) -> torch.Tensor:
    table = torch.empty(len(parameters), _COLUMNS.value)
    table[:, : parameters.shape[1]] = parameters
    table[:, _ORDER.value] = (orders << 2 * torch.arange(4)).sum(1).float()
    table[:, _CONTRAST_PLACE.value] = (orders == 1).float().argmax(1).float()
    table[:, _BLURRED_PLACE.value] = is_blurred.cumsum(0) - 1.0
    return table


@torch.compiler.disable
def photometric(
    crops: torch.Tensor,
    parameters: torch.Tensor,
    orders: torch.Tensor,
    num_taps: int,
    mean: list[float],
    std: list[float],
) -> torch.Tensor:
    """
    All operations and the normalisation; the host reads nothing from the device.

    Args:
        crops (`torch.Tensor` of shape `(N, 3, H, W)`): uint8, with any strides, on the GPU.
        parameters (`torch.Tensor` of shape `(N, 9)`): What happens to each view, in the columns of
            `lejepa_hf.data.photometric`; on the host.
        orders (`torch.Tensor` of shape `(N, 4)`): The adjustments of each view in their order, 0 to 3 for brightness,
            contrast, saturation and hue; int64, on the host.
        num_taps (`int`): Width of the blur's kernel in pixels, odd and less than twice the smaller side of the crops.
        mean (`list[float]`): What is subtracted from red, green and blue in [0, 1].
        std (`list[float]`): What they are divided by.

    Returns:
        `torch.Tensor` of shape `(N, 3, H, W)`: fp32, contiguous.
    """
    num_views, _, height, width = crops.shape
    result = torch.empty(crops.shape, device=crops.device)
    if result.numel() == 0:
        return result
    is_blurred = parameters[:, _SIGMA.value] > 0
    num_blurred = int(is_blurred.sum())
    table = _table(parameters, orders, is_blurred)
    if crops.is_cuda:
        table = table.pin_memory()  # the host would wait for a large copy from other memory
    table = table.to(crops.device, non_blocking=True)
    num_pixels = height * width
    num_tiles, num_blur_tiles = triton.cdiv(num_pixels, _TILE), triton.cdiv(3 * num_pixels, _TILE)
    sums = torch.empty(num_views, num_tiles, device=crops.device)
    mean, std = [float(value) for value in mean], [float(value) for value in std]
    grid, blur_grid = (num_views * num_tiles,), (num_views * num_blur_tiles,)
    options, sizes = {"TILE": _TILE, "num_warps": _NUM_WARPS}, (width, num_pixels, num_tiles)
    with torch.cuda.device_of(crops):  # Triton launches on the current device
        if bool((parameters[:, _CONTRAST.value] != 1).any()):
            _means_kernel[grid](crops, *crops.stride(), table, sums, *sizes, **options)
        sums = sums.sum(1)
        _colours_kernel[grid](crops, *crops.stride(), table, sums, result, *sizes, *mean, *std, **options)
        if num_blurred:
            blurred, options = result.new_empty(num_blurred, *crops.shape[1:]), {"TAPS": num_taps, **options}
            _blur_rows_kernel[blur_grid](result, blurred, table, width, 3 * num_pixels, num_blur_tiles, **options)
            of_views = width, height, 3 * num_pixels, num_blur_tiles
            _blur_columns_kernel[blur_grid](blurred, result, table, *of_views, *mean, *std, **options)
    return result
